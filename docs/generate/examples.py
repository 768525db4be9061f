"""An example of each component, as a recipe has it: from a packaged recipe, else from its signature."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.recipe.packaged import packaged
from toolkit.recipe.sections import SECTIONS
from toolkit.recipe.writer import write_toml
from toolkit.registry import load as plugins
from toolkit.registry.registry import Component, Registry
from toolkit.registry.signature import read_signature

Path = tuple[str, ...]
# What stands for options without a default where no packaged recipe uses the component.
VALUES: dict[str, Any] = {
    "path": "my/folder", "weak": "runs/smaller", "from_run": "runs/autoencoder_mnist",
    "lr": 0.1, "scale": 2.0, "start": 1.0, "end": 0.1, "scheduler": "DPMSolverMultistepScheduler",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A table of a recipe.

    Attributes:
        path: where it stands, such as ("objective", "loss").
        table: its `type` and options.
        recipe: the packaged recipe that has it; None if it was made up.
    """

    path: Path
    table: Mapping[str, Any]
    recipe: str | None = None

    @property
    def text(self) -> str:
        """As TOML."""
        tables: dict[str, Any] = dict(self.table)
        for key in reversed(self.path):
            tables = {key: tables}
        return write_toml(tables)


def example_of(component: Component, registry: Registry) -> Example | None:
    """The smallest table of a packaged recipe that builds the component; else one with its required options.

    None if recipes have no place for its kind, such as metrics and importers.
    """
    used = [e for e in _in_recipes(component.kind, component.name) if accepted(e, component.kind, registry)]
    if used:
        return min(used, key=lambda e: (len(e.path), len(e.text)))
    path = _places(registry).get(component.kind)
    if path is None:
        return None
    stated = {option.name: VALUES[option.name] for option in component.options if option.required}
    return Example(path, {"type": component.name, **stated})


def accepted(example: Example, kind: type, registry: Registry) -> bool:
    """Whether the registry takes the table as it stands, with the options that its section adds."""
    section = next(section for section in SECTIONS if section.name == example.path[0])
    outermost = len(example.path) == 1 + section.per_role
    try:
        registry.complete(kind, dict(example.table), common=section.common_options if outermost else None)
    except ToolkitError:
        return False
    return True


def _in_recipes(kind: type, name: str) -> Iterator[Example]:
    for (found, type_), examples in _used().items():
        if found is kind and type_ == name:
            yield from examples


@cache
def _used() -> dict[tuple[type, str], list[Example]]:
    """All tables with a type of all packaged recipes, by kind and type."""
    registry = plugins.load().registry
    used: dict[tuple[type, str], list[Example]] = {}
    for recipe in packaged():
        with recipe.path.open("rb") as file:
            tables = tomllib.load(file)
        for section in SECTIONS:
            inner = tables.get(section.name, {})
            roles = inner.items() if section.per_role else [("", inner)]
            for role, table in roles:
                path = (section.name, role) if role else (section.name,)
                for kind, example in _nested(section.interface, path, table, recipe.name, registry):
                    used.setdefault((kind, example.table["type"]), []).append(example)
    return used


def _nested(
    kind: type, path: Path, table: Any, recipe: str, registry: Registry
) -> Iterator[tuple[type, Example]]:
    """The table and the tables in it that have a type, each with its kind."""
    if not isinstance(table, dict) or kind not in registry.kinds():
        return
    if "type" in table:
        yield kind, Example(path, table, recipe)
    for key, inner in table.items():
        for nested in _kinds_at(kind, key, registry):
            yield from _nested(nested, (*path, key), inner, recipe, registry)


def _kinds_at(kind: type, key: str, registry: Registry) -> set[type]:
    """What the option `key` of components of a kind takes, if it is a table."""
    return {nested for name, nested in _tables_in(kind, registry) if name == key}


def _tables_in(kind: type, registry: Registry) -> Iterator[tuple[str, type]]:
    """Options of components of a kind that take one component: their names, and the kind of that one."""
    options = [option for component in registry.components(kind).values() for option in component.options]
    for section in SECTIONS:
        if section.interface is kind and section.common_options is not None:
            options += read_signature(section.common_options, supplied=()).options
    for option in options:
        if option.nested is not None and option.many is None:  # an interface is a kind, or narrows one
            yield from ((option.name, k) for k in registry.kinds() if issubclass(option.nested, k))


@cache
def _places(registry: Registry) -> dict[type, Path]:
    """Where a recipe has a table of each kind: in a section, or in a table of another kind."""
    places: dict[type, Path] = {}
    for section in SECTIONS:
        if section.interface in registry.kinds():
            places[section.interface] = (section.name, "denoiser") if section.per_role else (section.name,)
    waiting = list(places)
    for kind in waiting:  # grows while it is walked through
        for name, nested in _tables_in(kind, registry):
            if nested not in places:
                places[nested] = (*places[kind], name)
                waiting.append(nested)
    return places
