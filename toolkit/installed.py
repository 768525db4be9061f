"""Which plugins are installed, which of them are switched on, and what they were written for.

A plugin is an entry point in the group "toolkit". Nothing of a plugin is imported here.
"""

import ast
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import toolkit
from toolkit.errors import PluginError, nearest

GROUP = "toolkit"
VARIABLE = "TOOLKIT_PLUGINS"  # what `--plugins` sets, so that other processes of a run have it too
NONE = "none"
OWN = "diffusion-toolkit"


@dataclass(frozen=True)
class Owner:
    """The plugin that something belongs to, and the distribution that it came with."""

    name: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        return (
            f"plugin {self.name!r} ({self.distribution} {self.version})" if self.distribution else self.name
        )


@dataclass(frozen=True)
class Discovered:
    """A plugin that is installed; `load` imports it."""

    owner: Owner
    module: str
    load: Callable[[], Any]


def discover() -> tuple[Discovered, ...]:
    """The installed plugins by name, switched on or not."""
    found = []
    for entry in metadata.entry_points(group=GROUP):
        distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
        found.append(Discovered(Owner(entry.name, distribution, version), entry.module, entry.load))
    return tuple(sorted(found, key=lambda plugin: (plugin.owner.name, plugin.owner.distribution)))


def switched() -> tuple[tuple[Discovered, ...], tuple[Discovered, ...]]:
    """The installed plugins that are on, and those that TOOLKIT_PLUGINS switches off.

    The variable holds names with commas between them, or `none`; all are on where it is not set, or empty.

    Raises:
        PluginError: for a name that no installed plugin has, with the nearest.
    """
    installed, stated = discover(), os.environ.get(VARIABLE, "")
    if not stated:
        return installed, ()
    names = [] if stated == NONE else [name.strip() for name in stated.split(",")]
    known = sorted({plugin.owner.name for plugin in installed})
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f" Installed: {', '.join(known) or NONE}."
            raise PluginError(f"--plugins or {VARIABLE}: plugin {name!r} is not installed.{hint}")
    on = tuple(plugin for plugin in installed if plugin.owner.name in names)
    return on, tuple(plugin for plugin in installed if plugin not in on)


def stated_api(module: str) -> int | None:
    """The N of `toolkit_api = N` in a plugin's module; None if it states no number.

    It is read from the source: a plugin for another version may fail at the first name that it imports.
    """
    try:
        spec = _spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
        body = ast.parse(source or "").body
    except Exception:  # no source, or not Python: importing it tells
        return None
    for node in body:
        match node:
            case (
                ast.Assign(targets=[ast.Name("toolkit_api")], value=ast.Constant(int(api)))
                | ast.AnnAssign(target=ast.Name("toolkit_api"), value=ast.Constant(int(api)))
            ):
                return api
    return None


def _spec(module: str) -> ModuleSpec | None:
    """As importlib's `find_spec`, which would import the packages that the module is in."""
    name, *inner = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in inner:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations) if spec else None
    return spec


def compatible() -> str:
    """The versions of the toolkit that a plugin written today should require."""
    major, minor = map(int, toolkit.__version__.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"
