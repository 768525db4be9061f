"""The checks of all that an installed plugin registers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from toolkit import plugins
from toolkit.component import Component
from toolkit.errors import PluginError, nearest
from toolkit.installed import Discovered, Owner, switched
from toolkit.registry import Registry
from toolkit.testing.case import Case
from toolkit.testing.kit import Outcome, default_case, run, stated_cases

CORE = Discovered(Owner("toolkit"), "toolkit.components", lambda: None)


@dataclass(frozen=True)
class Examined:
    """What became of every check; and the components that could not be checked, each with the reason."""

    outcomes: tuple[Outcome, ...]
    without: tuple[tuple[Component, str], ...]


def examine(package: str, progress: Callable[[str], None] | None = None) -> Examined:
    """Run all checks of the plugins that `package` names; `progress` is told of each.

    Raises:
        PluginError: if nothing of that name is installed, or it cannot be loaded.
    """
    outcomes: list[Outcome] = []
    without: list[tuple[Component, str]] = []
    loaded = plugins.load()
    for plugin in _named(package):
        if plugin.owner in loaded.registry.failures:
            raise PluginError(f"{plugin.owner} cannot be loaded: {loaded.registry.failures[plugin.owner]}")
        cases, impossible = cases_of(plugin, loaded.registry)
        without += impossible
        for outcome in run(cases):
            outcomes.append(outcome)
            if progress is not None:
                progress(f"{outcome.status}: {outcome.case}, {outcome.check}")
    return Examined(tuple(outcomes), tuple(without))


def _named(package: str) -> list[Discovered]:
    installed = (CORE, *switched()[0])
    found = [p for p in installed if package in (p.owner.name, p.module, p.owner.distribution)]
    if not found:
        names = [plugin.owner.name for plugin in installed]
        hint = nearest(package, names) or f" Installed: {', '.join(names)}."
        raise PluginError(f"no plugin {package!r} is installed.{hint}")
    return found


def cases_of(plugin: Discovered, registry: Registry) -> tuple[list[Case], list[tuple[Component, str]]]:
    """The cases that a plugin states, default ones for what else it registers, and what has none and why."""
    cases = [replace(case, registry=registry) for case in stated_cases(plugin.module)]
    without = []
    for component in registry.added():
        stated = any(c.name == component.name and issubclass(c.kind, component.kind) for c in cases)
        if component.owner != plugin.owner or stated:
            continue
        try:
            if component.error is not None:
                raise PluginError(f"cannot be used: {component.error}")
            cases.append(default_case(component, registry))
        except PluginError as reason:
            without.append((component, str(reason)))
    return cases, without
