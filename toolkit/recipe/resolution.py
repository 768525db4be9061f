"""From merged layers to a recipe: every section complete, or all that is wrong in one error."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.errors import Problem, RecipeError, nearest
from toolkit.recipe.layers import Layers
from toolkit.recipe.recipe import Recipe, where
from toolkit.recipe.sections import SECTIONS, Section
from toolkit.recipe.toml import KeyPath, printable
from toolkit.recipe.writer import dotted

if TYPE_CHECKING:
    from toolkit.registry import Registry
    from toolkit.tables import Completion

ROLE = re.compile(r"[A-Za-z0-9_]{1,100}")


def resolve(layers: Layers, registry: "Registry", sections: Sequence[Section] = SECTIONS) -> Recipe:
    """Validate every table against what is installed, and fill in every default.

    Raises:
        RecipeError: with one line for each problem.
    """
    from toolkit.tables import Completion  # pydantic comes with it

    tables: dict[str, Any] = {}
    by_name = {section.name: section for section in sections}
    problems = [_unknown_section(name, by_name) for name in layers.values if name not in by_name]
    completion = Completion(registry, problems)
    for section in sections:
        stated = layers.values.get(section.name)
        stated = section.default if stated is None else stated
        if stated is None or (stated == "none" and section.optional):
            if section.required:
                problems.append(Problem((), f"needs {section.header}."))
            continue
        tables[section.name] = _complete(section, stated, completion)
    recipe = Recipe(tables, layers, by_name, registry)
    lines = [f"{where(layers, p.path)} {p.text}{_home(p, tables) or p.hint}" for p in problems]
    lines = lines or list(_refusals(recipe))
    if any(problem.uninstalled for problem in problems):
        lines += [f"{owner} could not be loaded: {reason}" for owner, reason in registry.failures.items()]
    if lines:
        raise RecipeError("\n".join(lines))
    return recipe


def _complete(section: Section, stated: Any, completion: "Completion") -> dict[str, Any]:
    def complete(table: Any, *path: str) -> dict[str, Any]:
        return completion.complete(
            section.interface, table, path, common=section.common_options, preset=section.preset
        )

    if not section.per_role or not isinstance(stated, dict):
        return complete(stated, section.name)
    for name in stated:
        if not ROLE.fullmatch(name):  # it becomes the name of a file
            text = f"a name here has letters, digits and _ only, not {printable(name)!r}."
            completion.problems.append(Problem((section.name, name), text))
    if section.required and not stated:
        completion.problems.append(Problem((section.name,), f"needs {section.header}."))
    return {role: complete(table, section.name, role) for role, table in stated.items()}


def _unknown_section(name: str, sections: Mapping[str, Section]) -> Problem:
    hint = nearest(name, sections) or f" Sections: {', '.join(sections)}."
    return Problem((name,), f"there is no section {printable(name)!r}.", hint, unknown=name)


def _home(problem: Problem, tables: Mapping[str, Any]) -> str:
    """Where a key that its table does not have is an option."""
    homes = [
        f"[{printable(dotted(path))}]" for path, table in _tables(tables, ()) if problem.unknown in table
    ]
    return f" It is an option of {' and '.join(homes)}." if problem.unknown and homes else ""


def _tables(table: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield (*path, key), value
            yield from _tables(value, (*path, key))


def _refusals(recipe: Recipe) -> Iterator[str]:
    """What the plain tables' own checks say. Components' constructors speak up when they are built."""
    for name, section in recipe.sections.items():
        table = recipe.tables.get(name, {})
        for role in table if section.per_role else [None]:
            if name in recipe.tables and dataclasses.is_dataclass(section.interface):
                try:
                    recipe.common((name,) if role is None else (name, role))
                except RecipeError as error:
                    yield str(error)
