"""Runs the checks of everything that an installed plugin registers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from toolkit.errors import PluginError, nearest
from toolkit.registry import load as plugins
from toolkit.registry.discover import Owner, switched
from toolkit.registry.load import CORE
from toolkit.registry.registry import Component, Registry
from toolkit.testing import core
from toolkit.testing.case import Case
from toolkit.testing.kit import Outcome, default_case, run, stated_cases


@dataclass(frozen=True)
class Examined:
    """The outcome of every check, and the components that could not be checked, each with the reason."""

    outcomes: tuple[Outcome, ...]
    without: tuple[tuple[Component, str], ...]


def examine(package: str, progress: Callable[[str], None] | None = None) -> Examined:
    """Run all checks of the plugins that `package` names; `progress` gets a line for each.

    Raises:
        PluginError: if nothing of that name is installed, or it cannot be loaded.
    """
    outcomes: list[Outcome] = []
    without: list[tuple[Component, str]] = []
    loaded = plugins.load()
    for owner, module in _named(package):
        if owner in loaded.registry.failures:
            raise PluginError(f"{owner} cannot be loaded: {loaded.registry.failures[owner]}")
        cases, impossible = cases_of(owner, module, loaded.registry)
        without += impossible
        for outcome in run(cases):
            outcomes.append(outcome)
            if progress is not None:
                progress(f"{outcome.status}: {outcome.case}, {outcome.check}")
    return Examined(tuple(outcomes), tuple(without))


def _named(package: str) -> list[tuple[Owner, str]]:
    """The plugins with `package` as name, module or distribution, each with its entry point's module."""
    installed = [(CORE, "toolkit.testing.core"), *((one.owner, one.module) for one in switched()[0])]
    result = [one for one in installed if package in (one[0].name, one[1], one[0].distribution)]
    if not result:
        names = [owner.name for owner, _ in installed]
        hint = nearest(package, names) or f" Installed: {', '.join(names)}."
        raise PluginError(f"no plugin {package!r} is installed.{hint}")
    return result


def cases_of(owner: Owner, module: str, registry: Registry) -> tuple[list[Case], list[tuple[Component, str]]]:
    """A plugin's cases, default ones for its other components, and the components without one, with why."""
    given = core.cases() if owner == CORE else stated_cases(module)
    cases = [replace(case, registry=registry) for case in given]
    without = []
    for component in registry.added():
        has_case = any(c.name == component.name and issubclass(c.kind, component.kind) for c in cases)
        if component.owner != owner or has_case:
            continue
        try:
            if component.error is not None:
                raise PluginError(f"cannot be used: {component.error}")
            cases.append(default_case(component, registry))
        except PluginError as reason:
            without.append((component, str(reason)))
    return cases, without
