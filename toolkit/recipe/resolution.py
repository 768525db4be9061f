"""Resolve merged layers into a recipe: every section complete, or one error that lists every problem."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.errors import Problem, RecipeError, ToolkitError, nearest, printable
from toolkit.recipe.layers import Layers, read_layers
from toolkit.recipe.recipe import Recipe, where
from toolkit.recipe.sections import SECTIONS, Section
from toolkit.recipe.toml import KeyPath
from toolkit.recipe.writer import dotted

if TYPE_CHECKING:
    from toolkit.registry.registry import Registry
    from toolkit.registry.tables import Completion, Table

ROLE = re.compile(r"[A-Za-z0-9_]{1,100}")


def resolve(layers: Layers, registry: "Registry", sections: Sequence[Section] = SECTIONS) -> Recipe:
    """Validate every table against what is installed, and fill in every default.

    Raises:
        RecipeError: with one line for each problem.
    """
    from toolkit.registry.tables import Completion

    complete: dict[str, Any] = {}
    by_name = {section.name: section for section in sections}
    problems = [_unknown_section(name, by_name) for name in layers.values if name not in by_name]
    completion = Completion(registry, problems)
    for section in sections:
        value = layers.values.get(section.name)
        value = section.default if value is None else value
        if value is None or (value == "none" and section.optional):
            if section.required:
                problems.append(Problem((), f"needs {section.header}."))
            continue
        complete[section.name] = _complete(section, value, completion)
    recipe = Recipe(complete, layers, by_name, registry)
    lines = registry.lines(
        problems, lambda p: f"{where(layers, p.path)} {p.text}{_home(p, recipe.tables) or p.hint()}"
    )
    if lines := lines or list(_refusals(recipe)):
        raise RecipeError("\n".join(lines))
    return recipe


def _complete(section: Section, value: Any, completion: "Completion") -> "Table | dict[str, Table]":
    def complete(table: Any, *path: str) -> "Table":
        try:
            table = section.expanded(table) if isinstance(table, dict) else table
        except ToolkitError as error:
            assert section.source is not None
            completion.problems.append(Problem((*path, section.source[0]), f"{section.source[0]}: {error}"))
            return completion.nothing(section.interface)
        return completion.complete(
            section.interface, table, path, common=section.common_options, preset=section.preset
        )

    if not section.per_role or not isinstance(value, dict):
        return complete(value, section.name)
    for name in value:
        if not ROLE.fullmatch(name):  # it becomes the name of a file
            text = f"a name here has letters, digits and _ only, not {printable(name)!r}."
            completion.problems.append(Problem((section.name, name), text))
    if section.required and not value:
        completion.problems.append(Problem((section.name,), f"needs {section.header}."))
    return {role: complete(table, section.name, role) for role, table in value.items()}


def _unknown_section(name: str, sections: Mapping[str, Section]) -> Problem:
    def hint() -> str:
        return nearest(name, sections) or f" Sections: {', '.join(sections)}."

    return Problem((name,), f"there is no section {printable(name)!r}.", hint, unknown=name)


def _home(problem: Problem, tables: Mapping[str, Any]) -> str:
    """A hint at the tables in which an unknown key is an option."""
    if problem.unknown is None:
        return ""
    homes = [
        f"[{printable(dotted(path))}]" for path, table in _tables(tables, ()) if problem.unknown in table
    ]
    return f" It is an option of {' and '.join(homes)}." if homes else ""


def _tables(table: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield (*path, key), value
            yield from _tables(value, (*path, key))


def _refusals(recipe: Recipe) -> Iterator[str]:
    """Errors from the checks of plain tables. Components are checked when their constructors run."""
    for name, section in recipe.sections.items():
        table = recipe.tables.get(name, {})
        for role in table if section.per_role else [None]:
            if name in recipe.tables and dataclasses.is_dataclass(section.interface):
                try:
                    recipe.common((name,) if role is None else (name, role))
                except RecipeError as error:
                    yield str(error)


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, and validate it against what is installed.

    Args:
        source: the path of a .toml file or of a run folder, or the name of a packaged recipe.
        overrides: assignments such as "run.steps=100", as `--set` takes them.

    Raises:
        RecipeError: with one line for each problem.
        PluginError: if TOOLKIT_PLUGINS names a plugin that is not installed.
    """
    layers = read_layers(source, overrides)  # before plugins and torch: a syntax error answers at once

    from toolkit.registry.load import load

    return resolve(layers, load().registry)


def read_data(source: str | Path) -> Any:
    """Build the data source that the [data] of a recipe describes; its other sections are ignored.

    Args:
        source: the path of a .toml file or of a run folder, or the name of a packaged recipe.

    Raises:
        RecipeError: if the recipe cannot be read, or its [data] is wrong.
        DataError: if the data is missing or unreadable.
    """
    from toolkit.registry.load import load

    section = next(section for section in SECTIONS if section.name == "data")
    layers = read_layers(source)
    own = {name: table for name, table in layers.values.items() if name == "data"}
    return resolve(dataclasses.replace(layers, values=own), load().registry, (section,)).create(("data",), {})
