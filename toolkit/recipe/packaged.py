"""Recipes and studies that come with the toolkit or a plugin, found by name without importing anything."""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Literal

from toolkit.errors import RecipeError, nearest
from toolkit.registry.discover import Discovered, switched

KEYED = re.compile(r"[A-Z][a-z]+:(\s|$)")  # "Cost:     2 minutes"
SENTENCE_END = re.compile(r"(?<=[.?!])\s+(?=[A-Z\"])")

Kind = Literal["recipe", "study"]
FOLDERS = {"recipe": "recipes", "study": "studies"}  # in a package, and in the repository


@dataclass(frozen=True)
class Packaged:
    """A file that is known by name, and the plugin that it comes with."""

    name: str
    path: Path
    plugin: str

    @property
    def purpose(self) -> str:
        """The first sentence of the comment that it starts with."""
        paragraph = takewhile(lambda line: line.strip() and not KEYED.match(line), self._comment())
        return _first_sentence(paragraph)

    @property
    def model(self) -> tuple[str, str, str]:
        """Method, data and size: `Model: DDPM; MNIST, 1x28x28; 1.1 M parameters`; else blanks."""
        method, data, size = (*(self.said("Model") or "").split("; "), "", "")[:3]
        return method, data, size.removesuffix(" parameters")

    def said(self, key: str) -> str | None:
        """The first sentence behind `key:`, such as Cost or Suits, in its comment; None if there is none."""
        lines = dropwhile(lambda line: not line.startswith(f"{key}:"), self._comment())
        first = next(lines, None)
        if first is None:
            return None
        return _first_sentence(
            [first.partition(":")[2], *takewhile(lambda line: line.startswith("  "), lines)]
        )

    def _comment(self) -> Iterator[str]:
        try:
            with self.path.open(encoding="utf-8-sig", errors="replace") as lines:
                for line in lines:
                    if not line.startswith("#"):
                        return
                    yield line.removeprefix("#").removeprefix(" ").rstrip()
        except OSError:  # the others are listed all the same
            return


def _first_sentence(lines: Iterable[str]) -> str:
    return SENTENCE_END.split(" ".join(line.strip() for line in lines), maxsplit=1)[0].strip()


def packaged(kind: Kind = "recipe") -> tuple[Packaged, ...]:
    """All of a kind except those of plugins that are switched off; the toolkit's own come first."""
    return _in_folders([("toolkit", _own_folder(kind)), *_plugin_folders(switched()[0], kind)])


def _in_folders(folders: Iterable[tuple[str, Path]]) -> tuple[Packaged, ...]:
    return tuple(
        Packaged(path.stem, path, plugin)
        for plugin, folder in folders
        for path in sorted(folder.glob("*.toml"))
        if path.is_file()
    )


def find(name: str, kind: Kind = "recipe") -> Path:
    """The file of a packaged recipe or study.

    Raises:
        RecipeError: if there is none of that name, or several plugins have one.
    """
    known, several = packaged(kind), FOLDERS[kind]
    matches = [one for one in known if one.name == name]
    if len(matches) > 1:
        paths = " and ".join(str(one.path) for one in matches)
        raise RecipeError(f"there are several {several} {name!r}: {paths}. Give the path of one.")
    if not matches:
        for off in _in_folders(_plugin_folders(switched()[1], kind)):
            if off.name == name:
                raise RecipeError(f"{kind} {name!r} belongs to plugin {off.plugin!r}, which is switched off.")
        lists = "`toolkit recipes` lists them" if kind == "recipe" else f"there are {_named(known)}"
        hint = nearest(name, [one.name for one in known]) or f" {lists}."
        raise RecipeError(f"there is no packaged {kind} {name!r}; a file's name ends in .toml.{hint}")
    return matches[0].path


def _named(known: Iterable[Packaged]) -> str:
    return ", ".join(one.name for one in known)


def _own_folder(kind: Kind) -> Path:
    package = Path(__file__).resolve().parents[1]
    installed = package / f"_{FOLDERS[kind]}"  # from a wheel; an editable install has the repository's folder
    return installed if installed.is_dir() else package.parent / FOLDERS[kind]


def _plugin_folders(plugins: Iterable[Discovered], kind: Kind) -> list[tuple[str, Path]]:
    """The `recipes` or `studies` folders in the packages of plugins."""
    folders: dict[Path, str] = {}
    for plugin in plugins:
        package, *inner = plugin.module.split(".")
        try:
            spec = importlib.util.find_spec(package)  # of the outermost package: further down it would import
        except (ImportError, ValueError):
            continue
        for location in (spec.submodule_search_locations or ()) if spec else ():
            for depth in range(len(inner) + 1):
                folders.setdefault(Path(location, *inner[:depth]) / FOLDERS[kind], plugin.owner.name)
    return sorted((name, folder) for folder, name in folders.items())
