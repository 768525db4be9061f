"""A resolved recipe: complete tables, and where each value comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.recipe.layers import Layers
from toolkit.recipe.sections import Section
from toolkit.recipe.toml import KeyPath, printable
from toolkit.recipe.writer import dotted, write_toml

if TYPE_CHECKING:  # the registry imports pydantic
    from toolkit.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """Every table with its type and all its options, as JSON has them; None where TOML has "none".

    A path names a table or a key: `("networks", "denoiser")`, `("run", "steps")`.
    """

    tables: Mapping[str, Any]
    layers: Layers = field(repr=False)
    sections: Mapping[str, Section] = field(repr=False)
    registry: "Registry" = field(repr=False)

    @property
    def name(self) -> str:
        return self.layers.name

    @property
    def path(self) -> Path | None:
        """The recipe's file; None if it came as tables."""
        return self.layers.path

    @property
    def notes(self) -> tuple[str, ...]:
        """What merging dropped, for the user to know."""
        return tuple(self.layers.notes)

    def where(self, path: KeyPath = ()) -> str:
        """How a message about a table or key begins: "recipes/x.toml:14: [objective]"."""
        return where(self.layers, path, self.tables)

    def origin(self, path: KeyPath) -> str:
        """The file and line, or the flag, that set a value; "default" if none did."""
        return self.layers.origins.get(path, "default")

    def to_toml(self, *, origins: bool = False) -> str:
        """The complete recipe as TOML, which resolves to itself; if asked, with each value's origin."""
        return write_toml(self.tables, self.origin if origins else None)

    def component(self, path: KeyPath) -> dict[str, Any]:
        """A table without the options that its section adds to every component: type and own options."""
        section = self.sections[path[0]]
        common = _common_names(section)
        return {key: value for key, value in self._table(path).items() if key not in common}

    def create(self, path: KeyPath, supplied: Mapping[str, object]) -> Any:
        """The object that a table describes.

        Raises:
            RecipeError: if it lacks something that the recipe or the data should supply, or refuses its
                options.
        """
        return self._create(self.sections[path[0]].interface, self.component(path), path, supplied)

    def common(self, path: KeyPath) -> Any:
        """The options that the toolkit itself reads from a table, as an instance of their dataclass.

        They are those that the section adds to every component, or the whole of a table without a type.
        """
        section, table = self.sections[path[0]], self._table(path)
        target = section.common_options
        if target is None:
            return self._create(section.interface, table, path, {})
        names = _common_names(section)
        return self._create(target, {key: table[key] for key in table if key in names}, path, {})

    def _table(self, path: KeyPath) -> dict[str, Any]:
        table: Any = self.tables
        for key in path:
            table = table[key]
        return dict(table)

    def _create(self, target: type, table: Any, path: KeyPath, supplied: Mapping[str, object]) -> Any:
        return self.registry.create(
            target, table, supplied=supplied, where=lambda inner: self.where((*path, *inner))
        )


def _common_names(section: Section) -> set[str]:
    common: Any = section.common_options  # a dataclass
    return {field.name for field in fields(common)} if common else set()


def where(layers: Layers, path: KeyPath, *tables: Mapping[str, Any]) -> str:
    """The nearest place at which a path, or a table above it, is stated, and its table in brackets."""
    stated = next((path[:n] for n in range(len(path), 0, -1) if path[:n] in layers.origins), None)
    place = layers.origins[stated] if stated else layers.shown_as
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
