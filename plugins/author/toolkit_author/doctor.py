"""Diagnosis of the installed plugins: what is wrong with them, and what to try."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import toolkit
from toolkit import Component, PluginReport, Plugins
from toolkit.commands import OWN, compatible, installed_commands, nearest


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, and what to try."""

    text: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """What a plugin registers, and what is wrong with it.

    Attributes:
        names: of its components, by kind.
        commands: the keys of their entry points: `name`, or `group.name`.
    """

    report: PluginReport
    names: dict[str, list[str]]
    commands: tuple[str, ...]
    faults: tuple[Fault, ...]


def examine(plugins: Plugins) -> tuple[Diagnosis, ...]:
    """Examine every plugin that is switched on, the core first.

    Faults in the dependencies of a distribution are listed with its first plugin.
    """
    seen: set[str] = set()
    examined = []
    installed = installed_commands()
    for report in plugins.reports:
        commands = tuple(one.entry.name for one in installed if one.owner == report.owner)
        faults = [*_loading(report, commands), *_names(report, plugins), *_components(report, plugins)]
        if report.owner.distribution not in ("", *seen):
            try:
                faults += _dependencies(report.owner.distribution)
            except Exception as error:  # METADATA may be anything
                text = f"the metadata of {report.owner.distribution} cannot be read: {error!r}"
                faults.append(Fault(text, _remedy(report, text)))
        seen.add(report.owner.distribution)
        names: dict[str, list[str]] = {}
        for component in report.components:
            names.setdefault(component.kind.__qualname__, []).append(component.name)
        examined.append(Diagnosis(report, names, commands, tuple(faults)))
    return tuple(examined)


def _loading(report: PluginReport, commands: tuple[str, ...]) -> Iterator[Fault]:
    if report.error is not None:
        at = f" (at {report.place})" if report.place else ""
        yield Fault(f"it cannot be loaded: {report.error}{at}", _remedy(report, report.error))
    elif not report.components and not report.observers and not commands:
        yield Fault("it registers nothing", "mark its toolkit_components(registry) with @toolkit.hookimpl")


def _remedy(report: PluginReport, error: str) -> str:
    ours = report.owner.distribution
    if missing := re.match(r"ModuleNotFoundError: No module named '([^']+)'", error):
        if report.place is None:  # the module of the entry point itself
            return f"pip install --force-reinstall --no-deps {ours}"
        return f"install what has the module {missing[1]!r}, and add it to the dependencies of {ours}"
    if renamed := re.match(r"ImportError: cannot import name '([^']+)' from 'toolkit'", error):
        hint = nearest(renamed[1], dir(toolkit))
        return f"toolkit has no public name {renamed[1]!r}.{hint} Or: pip install --upgrade {ours}"
    return f"correct {report.place or ours}, or go without it: pip uninstall {ours}"


def _names(report: PluginReport, plugins: Plugins) -> Iterator[Fault]:
    others = [
        r.owner.distribution for r in plugins.reports if r.owner.name == report.owner.name and r is not report
    ]
    if others:
        yield Fault(
            f"{' and '.join(others)} also has a plugin {report.owner.name!r}: pipelines need unique names",
            f"pip uninstall {report.owner.distribution}, or rename the entry point in its pyproject.toml",
        )


def _components(report: PluginReport, plugins: Plugins) -> Iterator[Fault]:
    added = [component for other in plugins.reports for component in other.components]
    for component in report.components:
        if component.error is not None:
            yield Fault(
                f"{component.name!r} cannot be used: {component.error}", _component_remedy(component, added)
            )


def _component_remedy(component: Component, added: list[Component]) -> str:
    owners = {c.owner.name for c in added if (c.kind, c.name) == (component.kind, component.name)}
    if len(owners) > 1:
        return f"rename one, or load one of them: --plugins {' or --plugins '.join(sorted(owners))}"
    factory = getattr(component.factory, "__qualname__", component.name)
    where = getattr(component.factory, "__module__", component.owner.name)
    return f"correct {factory} in {where}: its signature is the schema of its table (docs/plugins.md)"


def _dependencies(distribution: str) -> Iterator[Fault]:
    pins = []
    for line in metadata.requires(distribution) or ():
        try:
            required = Requirement(line)
        except InvalidRequirement:
            text = f"{distribution} requires {line!r}, which cannot be read as a requirement"
            yield Fault(text, "correct the dependencies of its pyproject.toml")
            continue
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        if canonicalize_name(required.name) == OWN:
            pins.append(required)
        requirement = f"{required.name}{required.specifier}"
        try:
            version = metadata.version(required.name)
        except metadata.PackageNotFoundError:
            yield Fault(
                f"{distribution} requires {requirement}, which is not installed",
                f"pip install '{requirement}'",
            )
            continue
        if not required.specifier.contains(version, prereleases=True):
            text = f"{distribution} requires {requirement}, but {version} is installed"
            yield Fault(text, f"pip install '{requirement}', or pip install --upgrade {distribution}")
    if distribution != OWN and not any(map(_ends, pins)):
        text = (
            f"requires {OWN}{pins[0].specifier} without an upper bound" if pins else f"does not require {OWN}"
        )
        yield Fault(
            f"{distribution} {text}, so that a later version may break it",
            f'write "{OWN}{compatible()}" into the dependencies of its pyproject.toml',
        )


def _ends(requirement: Requirement) -> bool:
    ends = {"<", "<=", "==", "===", "~="}
    return requirement.url is not None or any(part.operator in ends for part in requirement.specifier)
