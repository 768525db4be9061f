"""A resolved recipe: complete tables, and where each value comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import printable
from toolkit.recipe.layers import Layers
from toolkit.recipe.sections import Section
from toolkit.recipe.toml import KeyPath
from toolkit.recipe.writer import dotted, write_toml

if TYPE_CHECKING:  # the registry imports pydantic
    from toolkit.registry.registry import Registry
    from toolkit.registry.tables import Table


@dataclass(frozen=True)
class Recipe:
    """All tables, each with its type and all its options, as JSON values; None where TOML has "none".

    A path names a table or a key: `("networks", "denoiser")`, `("run", "steps")`.
    """

    complete: "Mapping[str, Table | dict[str, Table]]" = field(repr=False)  # by section, and by role
    layers: Layers = field(repr=False)
    sections: Mapping[str, Section] = field(repr=False)
    registry: "Registry" = field(repr=False)

    @cached_property
    def tables(self) -> Mapping[str, Any]:
        """All tables, by section and by role."""
        return {
            name: {role: one.plain for role, one in table.items()} if isinstance(table, dict) else table.plain
            for name, table in self.complete.items()
        }

    @property
    def name(self) -> str:
        return self.layers.name

    @property
    def path(self) -> Path | None:
        """The recipe's file; None if it came as tables."""
        return self.layers.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user about options that merging dropped."""
        return tuple(self.layers.notes)

    def where(self, path: KeyPath = ()) -> str:
        """The beginning of a message about a table or key: "recipes/x.toml:14: [objective]"."""
        return where(self.layers, path, self.tables)

    def origin(self, path: KeyPath) -> str:
        """The file and line, or the flag, that set a value; "default" if none did."""
        return self.layers.origins.get(path, "default")

    def to_toml(self, *, origins: bool = False) -> str:
        """The complete recipe as TOML, which resolves to itself; `origins` adds where each value was set."""
        return write_toml(self.tables, self.origin if origins else None)

    def with_value(self, path: KeyPath, value: Any) -> "Recipe":
        """The recipe with another value of a plain option, such as ("run", "precision")."""
        section, changed = self.complete[path[0]], self._complete(path).with_value(path[-1], value)
        whole = {**section, path[1]: changed} if isinstance(section, dict) else changed
        return replace(self, complete={**self.complete, path[0]: whole})

    def component(self, path: KeyPath) -> dict[str, Any]:
        """A table's type and the component's own options, without those that the section adds to each."""
        common = _common_names(self.sections[path[0]])
        return {key: value for key, value in self._complete(path).plain.items() if key not in common}

    def create(self, path: KeyPath, supplied: Mapping[str, object]) -> Any:
        """Build the object that a table describes.

        Raises:
            RecipeError: if something that the recipe or the data should supply is missing, or the
                constructor refuses its options.
        """
        return self._complete(path).build(supplied, lambda inner: self.where((*path, *inner)))

    def common(self, path: KeyPath, supplied: Mapping[str, object] | None = None) -> Any:
        """The options that the toolkit itself reads from a table, as an instance of their dataclass.

        These are the options that the section adds to every component, or a whole table without a type. What
        is nested in them is built with what is `supplied`.
        """
        table, options = self._complete(path), self.sections[path[0]].common_options
        table = table if options is None else table.common(options)
        return table.build(supplied or {}, lambda inner: self.where((*path, *inner)))

    def _complete(self, path: KeyPath) -> "Table":
        """The table at ("section",) or ("section", role)."""
        tables = self.complete[path[0]]
        return tables[path[1]] if isinstance(tables, dict) else tables


def _common_names(section: Section) -> set[str]:
    common: Any = section.common_options  # a dataclass
    return {field.name for field in fields(common)} if common else set()


def where(layers: Layers, path: KeyPath, *tables: Mapping[str, Any]) -> str:
    """The nearest place where a path, or a table above it, is set, and its table in brackets."""
    origin = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in layers.origins), None)
    place = layers.origins[origin] if origin else layers.shown_as
    table = path[:-1] if any(_is_value(known, path) for known in (layers.values, *tables)) else path
    return f"{place}: [{printable(dotted(table))}]" if table else f"{place}:"


def _is_value(tables: Any, path: KeyPath) -> bool:
    for key in path:
        inside = dict(enumerate(tables)) if isinstance(tables, list) else tables
        index = int(key) if isinstance(tables, list) and key.isdecimal() else key
        if not isinstance(inside, dict) or index not in inside:
            return False
        tables = inside[index]
    return not isinstance(tables, dict)
