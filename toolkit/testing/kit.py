"""The checks for a case, and running them: one by one, or as parameters of a pytest test."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from torch import nn

from toolkit.data.source import DataSource
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Start
from toolkit.diffusion.timesteps import TimestepSampler
from toolkit.errors import PluginError, RecipeError
from toolkit.evaluation.metric import Metric
from toolkit.registry.registry import Component, Registry
from toolkit.testing import (
    losses,
    metrics,
    networks,
    objectives,
    samplers,
    schedules,
    sources,
    starts,
    timesteps,
)
from toolkit.testing.case import Case, prepared
from toolkit.testing.requirement import Nonconformance
from toolkit.training.objective import DenoisingLoss, Objective

if TYPE_CHECKING:
    import pytest

Check = Callable[[Case], None]
CHECKS: dict[type, tuple[Check, ...]] = {
    DataSource: sources.CHECKS,
    NoiseSchedule: schedules.CHECKS,
    Objective: objectives.CHECKS,
    DenoisingLoss: losses.CHECKS,
    TimestepSampler: timesteps.CHECKS,
    Sampler: samplers.CHECKS,
    Start: starts.CHECKS,
    Metric: metrics.CHECKS,
    Encoder: networks.ENCODER_CHECKS,
    nn.Module: networks.CHECKS,  # any other module
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check; `message` says what is wrong, or why the case declares the check."""

    case: Case
    check: str
    status: Literal["passed", "failed", "declared"]
    message: str = ""


def checks_for(case: Case) -> tuple[Check, ...]:
    """The checks for the case's kind, those that a plugin brings with its own kind first; possibly none.

    Raises:
        PluginError: if the case declares a check that does not exist.
    """
    brought = [check for base in case.kind.__mro__ for check in _brought(base)]
    checks = (*brought, *next((CHECKS[base] for base in case.kind.__mro__ if base in CHECKS), ()))
    names = {check.__name__ for check in checks}
    if unknown := set(case.declares) - names:
        raise PluginError(
            f"case of {case}: declares {sorted(unknown)[0]!r}, which is none of {sorted(names)}"
        )
    return checks


def run(cases: Sequence[Case]) -> Iterator[Outcome]:
    """Run every check of every case, one after the other."""
    for case in cases:
        for check in checks_for(case):
            name = check.__name__
            if name in case.declares:
                yield Outcome(case, name, "declared", case.declares[name])
                continue
            try:
                with prepared(case) as ready:
                    check(ready)
            except Nonconformance as failure:
                yield Outcome(case, name, "failed", str(failure))
            except Exception as error:
                yield Outcome(case, name, "failed", f"raises {type(error).__name__}: {error}")
            else:
                yield Outcome(case, name, "passed")


def stated_cases(module: str) -> list[Case]:
    """The result of `cases()` in the plugin's `conformance` module; empty without such a module.

    The module is in the package that the entry point names, or beside the module that it names.
    """
    conformance = _conformance(module)
    result: list[Case] = list(conformance.cases()) if conformance else []
    return result


def _brought(kind: type) -> tuple[Check, ...]:
    """The checks in `CHECKS` of a plugin's `conformance` module for a kind of its own."""
    module = _conformance(kind.__module__.partition(".")[0])
    own: Mapping[type, tuple[Check, ...]] = getattr(module, "CHECKS", {})
    return tuple(own.get(kind, ()))


def _conformance(module: str) -> ModuleType | None:
    package = module if _is_package(module) else module.rpartition(".")[0]
    name = f"{package}.conformance"
    if not package or importlib.util.find_spec(name) is None:
        return None
    return importlib.import_module(name)


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def default_case(component: Component, registry: Registry) -> Case:
    """A case with all defaults, for a component that its plugin has no case for.

    Raises:
        PluginError: if there can be none; the message says why.
    """
    case = Case(component.interface, component.name, registry=registry)
    if not checks_for(case):
        raise PluginError("there are no checks for this kind")
    if issubclass(component.kind, Objective):
        raise PluginError("an objective needs a case with a recipe")
    required = [option.name for option in component.options if option.required]
    if required:
        raise PluginError(f"needs a case that states {', '.join(required)}")
    try:
        case.build()
    except RecipeError as error:
        raise PluginError(f"needs a case: {error}") from None
    return case


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
