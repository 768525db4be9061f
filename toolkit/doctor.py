"""What is wrong with the installed plugins, and what to try."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import toolkit
from toolkit import API_VERSION
from toolkit.component import Component
from toolkit.errors import nearest
from toolkit.installed import OWN, compatible
from toolkit.plugins import PluginReport, Plugins


@dataclass(frozen=True)
class Ailment:
    """Something that is wrong, and what to try."""

    text: str
    remedy: str


@dataclass(frozen=True)
class Examination:
    """A plugin, with how many components it adds by kind, and all that is wrong with it."""

    report: PluginReport
    counts: dict[str, int]
    ailments: tuple[Ailment, ...]
    notes: tuple[str, ...]


def examine(plugins: Plugins) -> tuple[Examination, ...]:
    """Every plugin that is switched on, the core first; what a distribution lacks is told at its first."""
    seen: set[str] = set()
    examined = []
    for report in plugins.reports:
        ailments = [*_loading(report), *_names(report, plugins), *_components(report, plugins)]
        if report.distribution not in ("", *seen):
            ailments += _dependencies(report.distribution)
        seen.add(report.distribution)
        counts = Counter(component.kind.__qualname__ for component in report.components)
        examined.append(Examination(report, dict(counts), tuple(ailments), tuple(_notes(report))))
    return tuple(examined)


def _loading(report: PluginReport) -> Iterator[Ailment]:
    if report.error is not None:
        at = f" (at {report.place})" if report.place else ""
        yield Ailment(f"it cannot be loaded: {report.error}{at}", _remedy(report, report.error))
    elif not report.components and not report.observers:
        yield Ailment("it registers nothing", "mark its toolkit_components(registry) with @toolkit.hookimpl")


def _remedy(report: PluginReport, error: str) -> str:
    ours = report.distribution
    if report.api is not None and report.api != API_VERSION:
        return f"pip install --upgrade {OWN if report.api > API_VERSION else ours}"
    if missing := re.match(r"ModuleNotFoundError: No module named '([^']+)'", error):
        if report.place is None:  # the module of the entry point itself
            return f"pip install --force-reinstall --no-deps {ours}"
        return f"install what has the module {missing[1]!r}, and add it to the dependencies of {ours}"
    if renamed := re.match(r"ImportError: cannot import name '([^']+)' from 'toolkit'", error):
        hint = nearest(renamed[1], toolkit.__all__)
        return f"toolkit has no public name {renamed[1]!r}.{hint} Or: pip install --upgrade {ours}"
    return f"correct {report.place or ours}, or go without it: pip uninstall {ours}"


def _names(report: PluginReport, plugins: Plugins) -> Iterator[Ailment]:
    others = [r.distribution for r in plugins.reports if r.name == report.name and r is not report]
    if others:
        yield Ailment(
            f"{' and '.join(others)} has a plugin {report.name!r} too, and pipelines name what they need",
            f"pip uninstall {report.distribution}, or rename the entry point in its pyproject.toml",
        )


def _components(report: PluginReport, plugins: Plugins) -> Iterator[Ailment]:
    added = [component for other in plugins.reports for component in other.components]
    for component in report.components:
        if component.error is not None:
            yield Ailment(f"{component.name!r} cannot be used: {component.error}", _cure(component, added))


def _cure(component: Component, added: list[Component]) -> str:
    owners = {c.owner.name for c in added if (c.kind, c.name) == (component.kind, component.name)}
    if len(owners) > 1:
        return f"rename one, or load one of them: --plugins {' or --plugins '.join(sorted(owners))}"
    factory = getattr(component.factory, "__qualname__", component.name)
    where = getattr(component.factory, "__module__", component.owner.name)
    return f"correct {factory} in {where}: its signature is the schema of its table (docs/plugins.md)"


def _dependencies(distribution: str) -> Iterator[Ailment]:
    pins = []
    for line in metadata.requires(distribution) or ():
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            text = f"{distribution} requires {line!r}, which is no requirement"
            yield Ailment(text, "correct the dependencies of its pyproject.toml")
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if canonicalize_name(wanted.name) == OWN:
            pins.append(wanted)
        stated = f"{wanted.name}{wanted.specifier}"
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Ailment(
                f"{distribution} requires {stated}, which is not installed", f"pip install '{stated}'"
            )
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            text = f"{distribution} requires {stated}, and {version} is installed"
            yield Ailment(text, f"pip install '{stated}', or pip install --upgrade {distribution}")
    if distribution != OWN and not any(map(_ends, pins)):
        text = f"requires {OWN}{pins[0].specifier} without an end" if pins else f"does not require {OWN}"
        yield Ailment(
            f"{distribution} {text}, so that a later version may break it",
            f'write "{OWN}{compatible()}" into the dependencies of its pyproject.toml',
        )


def _ends(requirement: Requirement) -> bool:
    ends = {"<", "<=", "==", "===", "~="}
    return requirement.url is not None or any(part.operator in ends for part in requirement.specifier)


def _notes(report: PluginReport) -> Iterator[str]:
    if report.api is None and report.distribution:
        yield f"it states no version of the interface: write `toolkit_api = {API_VERSION}` in its module"
