"""Discovery of installed plugins and commands, and of the plugins that are switched on.

A plugin is an entry point in the group "toolkit", a command one in the group "toolkit.commands". Neither is
imported here.
"""

import ast
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from toolkit.errors import PluginError, nearest

GROUP = "toolkit"
COMMANDS = "toolkit.commands"
VARIABLE = "TOOLKIT_PLUGINS"  # `--plugins` sets it, so that other processes of a run see it too
NONE = "none"
OWN = "diffusion-toolkit"


@dataclass(frozen=True)
class Owner:
    """The plugin that something belongs to, and the distribution that it came with."""

    name: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.source})" if self.distribution else self.name

    @property
    def source(self) -> str:
        """The distribution with its version; empty for the toolkit itself."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Discovered:
    """An installed plugin, or a command of one."""

    owner: Owner
    entry: metadata.EntryPoint

    @property
    def module(self) -> str:
        return self.entry.module

    def load(self) -> Any:
        """Import the plugin's module, or the command."""
        return self.entry.load()


def discover() -> tuple[Discovered, ...]:
    """The installed plugins, switched on or not, sorted by name."""
    plugins = [Discovered(_owner(entry, entry.name), entry) for entry in metadata.entry_points(group=GROUP)]
    return tuple(sorted(plugins, key=lambda plugin: (plugin.owner.name, plugin.owner.distribution)))


def _owner(entry: metadata.EntryPoint, name: str) -> Owner:
    return Owner(name, entry.dist.name, entry.dist.version) if entry.dist else Owner(name)


def switched() -> tuple[tuple[Discovered, ...], tuple[Discovered, ...]]:
    """The installed plugins that are on, and those that TOOLKIT_PLUGINS switches off.

    The variable holds names separated by commas, or `none`; if it is unset or empty, all plugins are on.

    Raises:
        PluginError: for a name that no installed plugin has, with the nearest one.
    """
    installed, chosen = discover(), os.environ.get(VARIABLE, "")
    if not chosen:
        return installed, ()
    names = [] if chosen == NONE else [name.strip() for name in chosen.split(",")]
    known = sorted({plugin.owner.name for plugin in installed})
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f" Installed: {', '.join(known) or NONE}."
            raise PluginError(f"--plugins or {VARIABLE}: plugin {name!r} is not installed.{hint}")
    on = tuple(plugin for plugin in installed if plugin.owner.name in names)
    return on, tuple(plugin for plugin in installed if plugin not in on)


def commands() -> tuple[Discovered, ...]:
    """The commands of all installed plugins, sorted by name; `group.name` adds `name` to a group.

    A command belongs to the plugin whose package contains it. `--plugins` does not affect commands: whoever
    calls one by name wants it.
    """
    plugins = {plugin.module.partition(".")[0]: plugin.owner for plugin in discover()}
    by_state = []
    for entry in metadata.entry_points(group=COMMANDS):
        package = entry.module.partition(".")[0]
        by_state.append(Discovered(plugins.get(package) or _owner(entry, package), entry))
    return tuple(sorted(by_state, key=lambda command: command.entry.name))


def summary(command: Discovered) -> str:
    """The first line of a command's docstring, read from its source; empty if there is none."""
    try:
        tree = ast.parse(source_of(command.module).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == command.entry.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def source_of(module: str) -> Path:
    """The module's file. Only the outermost package is looked up: looking further would import it.

    Raises:
        ValueError: if that package is not installed.
    """
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package!r} is not installed")
    return next(_files(Path(spec.submodule_search_locations[0], *inner)))


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path / "__init__.py"
    yield path.with_suffix(".py")


def compatible() -> str:
    """The versions of the toolkit that a plugin written today should require, e.g. ">=1.2,<1.3"."""
    major, minor = map(int, metadata.version(OWN).split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"
