"""The checks as pytest's parameters."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from toolkit.testing.case import Case, prepared
from toolkit.testing.kit import Check, checks_for

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(cases: Sequence[Case]) -> "pytest.MarkDecorator":
    """One test for every check of every case; what a case declares is skipped with its reason.

    ```python
    @testing.parametrize_with_checks(cases())
    def test_conformance(case: testing.Case, check: testing.Check) -> None:
        check(case)
    ```
    """
    import pytest

    parameters = []
    for case in cases:
        for check in checks_for(case):
            name = check.__name__
            marks = [pytest.mark.skip(reason=case.declares[name])] if name in case.declares else []
            named = f"{case.kind.__name__}-{case.name}-{name}"
            parameters.append(pytest.param(case, _whole(check), id=named, marks=marks))
    return pytest.mark.parametrize(("case", "check"), parameters)


def _whole(check: Check) -> Callable[[Case], None]:
    return partial(_checked, check)


def _checked(check: Check, case: Case) -> None:
    with prepared(case) as ready:
        check(ready)
