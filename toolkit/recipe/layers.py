"""A recipe, the recipes that it extends and the --set flags, merged key by key. Needs no torch."""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolkit.errors import RecipeError, nearest, printable
from toolkit.recipe.packaged import Kind, find
from toolkit.recipe.toml import KeyPath, parse_flag, parse_key, read_toml
from toolkit.registry.flag import FlagValue

STORED = "recipe.toml"  # in a run folder
_OF_THE_FILE = ("extends", "unset")  # keys that say how a file is merged; not part of the result


@dataclass(frozen=True)
class Layer:
    """One file, or all `--set` flags together.

    Attributes:
        shown_as: the file in messages.
        values: as they are written, `extends` and `unset` included.
        origins: where each key was set ("x.toml:14"); tables too, and elements of arrays by their index.
        of_flags: whether it is the layer of the flags.
    """

    shown_as: str
    values: dict[str, Any]
    origins: dict[KeyPath, str]
    of_flags: bool = False


@dataclass(frozen=True)
class Layers:
    """The merged values of all layers, not validated.

    Attributes:
        origins: where each key was set last.
        notes: options that were dropped because a `type` changed.
        run: the run folder that stores the recipe; None for a recipe file.
    """

    name: str
    path: Path | None
    shown_as: str
    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    run: Path | None = None

    def within(self, *table: str) -> Layer:
        """The content of a table as a layer of its own, whose keys know where they were set."""
        values: Any = self.values
        for key in table:
            values = values.get(key, {}) if isinstance(values, dict) else {}
        depth = len(table)
        origins = {path[depth:]: o for path, o in self.origins.items() if path[:depth] == table}
        return Layer(self.shown_as, values if isinstance(values, dict) else {}, origins)

    def over(self, layer: Layer) -> "Layers":
        """These layers with one more on top of them.

        Raises:
            RecipeError: if it unsets what is not there.
        """
        values, origins = copy.deepcopy(self.values), dict(self.origins)
        merged = replace(self, values=values, origins=origins, notes=list(self.notes))
        _unset(merged, layer)
        kept = {key: value for key, value in layer.values.items() if key not in _OF_THE_FILE}
        _merge(merged, merged.values, kept, layer, ())
        return merged


def read_layers(
    source: str | Path, overrides: Sequence[str] = (), *, kind: Kind = "recipe", folder: Path = Path()
) -> Layers:
    """Read a recipe with all that it extends and the `--set` overrides.

    Args:
        source: the path of a file or of a run folder, or the name of a packaged one. The recipe of a run has
            the name of its folder, and leaves out [run] out, which is that folder.
        overrides: as `--set` takes them.
        kind: what the file is; files of each kind extend others of their own.
        folder: where a relative path starts.

    Raises:
        RecipeError: if a file is missing or is not TOML, or a flag is not an assignment.
    """
    path = _located(str(source), folder, kind)
    if not path.stem.strip("."):  # the run folder has this name, and ".." is another folder
        raise RecipeError(f"{_display(path)} needs a name before .toml.")
    files: dict[Path, Layer] = {}
    _linearise(path, files, (), kind)
    *_, last = files.values()
    run = path if _is_run(path) else None
    name = path.stem if run is None else Path(os.path.abspath(run)).name
    merged = Layers(name, _file(path), last.shown_as, {}, run=run)
    for layer in (*files.values(), flag_layer(overrides)):
        merged = merged.over(layer)
    return merged


def _located(name: str, folder: Path, kind: Kind) -> Path:
    """A file, whose name ends in .toml, or for a recipe a run folder, whose path has a slash; else packaged.

    Paths are relative to `folder`.
    """
    if "\0" not in name:
        path = folder / os.path.expanduser(name)
        if name.endswith(".toml") or (kind == "recipe" and "/" in name and _is_run(path)):
            return path
    if "/" in name or "\0" in name:
        run = f", and a run folder has {STORED} and run.json" if kind == "recipe" else ""
        raise RecipeError(f"{printable(name)} is not a {kind}: the name of a {kind} file ends in .toml{run}.")
    return find(name, kind)


def _is_run(path: Path) -> bool:
    return all(os.path.isfile(path / name) for name in (STORED, "run.json"))


def _file(path: Path) -> Path:
    return path / STORED if _is_run(path) else path


def _display(path: Path) -> str:
    """The path as messages show it, relative to the working directory if it lies inside."""
    absolute, here = Path(os.path.abspath(path)), Path.cwd()
    return printable(str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute))


def _linearise(path: Path, files: dict[Path, Layer], children: tuple[Path, ...], kind: Kind) -> None:
    """Add a file after its parents, each file once."""
    file = _file(path)
    display, identity = _display(file), Path(os.path.realpath(file))
    if identity in children:
        raise RecipeError(f"{display} extends itself: {' -> '.join(map(_display, (*children, identity)))}.")
    if identity in files:
        return
    values, rows = read_toml(file, display)
    if file != path and isinstance(values.get("run"), dict):
        values["run"].pop("out", None)  # where that run lies: another by its recipe would train into it
    known = dict.fromkeys(_keys(values, ()), display)  # in case tree-sitter misses a key
    layer = Layer(display, values, known | {key: f"{display}:{row}" for key, row in rows.items()})
    for parent in _names(layer, "extends"):
        try:
            _linearise(_located(parent, file.parent, kind), files, (*children, identity), kind)
        except RecipeError as error:
            raise RecipeError(
                f"{layer.origins['extends',]}: extends {printable(parent)!r}: {error}"
            ) from error
    files[identity] = layer


def _names(layer: Layer, key: str) -> list[str]:
    """The value of `extends` or `unset`: one name or several."""
    value = layer.values.get(key, [])
    value = value.value if isinstance(value, FlagValue) else value
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{layer.origins[key,]}: {key!r} must be a name in quotes, or a list of them.")
    return names


def flag_layer(overrides: Sequence[str]) -> Layer:
    """All `--set` flags as one layer; a later flag wins."""
    layer = Layer("--set", {}, {}, of_flags=True)
    for flag in overrides:
        origin = f"--set {printable(flag)}"
        try:
            (*tables, key), value = parse_flag(flag)
        except ValueError as error:
            raise RecipeError(f"{origin}: {error}.") from error
        if not tables and key == "extends":
            raise RecipeError(f"{origin}: only a file extends others.")
        table: dict[str, Any] = layer.values
        path: KeyPath = ()
        for part in tables:
            path = (*path, part)
            layer.origins.setdefault(path, origin)
            if not isinstance(table.get(part), dict):
                table[part] = {}
            table = table[part]
        table[key] = value
        layer.origins.update(dict.fromkeys(_keys(value, (*path, key)), origin))
    return layer


def read_flags(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `--set` flags alone, as nested tables, for what is not a recipe.

    Raises:
        RecipeError: if a flag is not an assignment.
    """
    return flag_layer(overrides).values


def _keys(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    """The path of a value and of everything inside it."""
    yield path
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield from _keys(inner, (*path, str(key)))


def _unset(merged: Layers, layer: Layer) -> None:
    for name in _names(layer, "unset"):
        where = f"{layer.origins['unset',]}: unset {printable(name)!r}"
        try:
            *tables, key = path = parse_key(name)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}.") from error
        table: Any = merged.values
        for part in tables:
            table = table.get(part) if isinstance(table, dict) else None
        if not isinstance(table, dict) or key not in table:
            known = [".".join(other) for other in merged.origins]
            raise RecipeError(f"{where}: there is nothing of that name to remove.{nearest(name, known)}")
        _forget(merged, table.pop(key), path)


def _forget(merged: Layers, value: Any, path: KeyPath) -> None:
    for key in _keys(value, path):  # not a search of all origins: there may be very many
        merged.origins.pop(key, None)


def _merge(
    merged: Layers, into: dict[str, Any], values: dict[str, Any], layer: Layer, table: KeyPath
) -> None:
    """Merge tables key by key; everything else is replaced, and so is a table whose `type` changes."""
    for key, value in values.items():
        path, old = (*table, key), into.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            if not _changes_type(old, value):
                if not layer.of_flags:  # a flag sets one key: its table keeps the origin in a file
                    merged.origins[path] = layer.origins[path]
                _merge(merged, old, value, layer, path)
                continue
            dropped = ", ".join(name for name in old if name not in value)
            if dropped:
                change = f"type {old['type']!r} became {value['type']!r}, which drops {dropped}"
                merged.notes.append(f"{layer.origins[*path, 'type']}: [{'.'.join(path)}] {change}")
        _forget(merged, old, path)
        into[key] = copy.deepcopy(value)
        merged.origins.update({k: layer.origins[k] for k in _keys(value, path) if k in layer.origins})


def _changes_type(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "type" in old and "type" in new and old["type"] != new["type"]
