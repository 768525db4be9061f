"""Conformance checks: does a component keep the promises of its interface?

`parametrize_with_checks` turns them into a plugin's tests; `toolkit plugin test` runs the same checks.
"""

from toolkit.testing.case import Case
from toolkit.testing.kit import CHECKS, Check, Outcome, checks_for, parametrize_with_checks, run
from toolkit.testing.requirement import Nonconformance, require

__all__ = [
    "CHECKS", "Case", "Check", "Nonconformance", "Outcome", "checks_for", "parametrize_with_checks",
    "require", "run",
]  # fmt: skip
