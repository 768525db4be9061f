"""Discovery of installed plugins and commands, and of the plugins that are switched on.

A plugin is an entry point in the group "toolkit", a command one in the group "toolkit.commands". Neither is
imported here. What one distribution has written wrongly costs the others nothing: it becomes a plugin, or a
command, that cannot be loaded.
"""

import ast
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from toolkit.errors import PluginError, nearest, one_line

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
    """An installed plugin, or a command of one.

    Attributes:
        module: its module; empty if that cannot be read.
        fault: what is wrong with its entry point; None if nothing is.
    """

    owner: Owner
    entry: metadata.EntryPoint
    module: str
    fault: str | None = None

    def load(self) -> Any:
        """Import the plugin's module, or the command.

        Raises:
            PluginError: if there is nothing to import.
        """
        if self.fault is not None:
            raise PluginError(self.fault)
        return self.entry.load()


def discover() -> tuple[Discovered, ...]:
    """The installed plugins, switched on or not, sorted by name."""
    return tuple(sorted(_installed(GROUP), key=lambda one: (one.owner.name, one.owner.distribution)))


def _installed(group: str) -> Iterator[Discovered]:
    """The entry points of a group; `metadata.entry_points` would raise for all if one is malformed."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == group]
        except Exception as error:  # whatever reading its text may raise
            folder = Path(str(getattr(distribution, "_path", "")))
            fault = f"{folder / 'entry_points.txt'} cannot be read: {one_line(error)}"
            if group == GROUP:
                entry = metadata.EntryPoint(_attribute(distribution, "name") or folder.stem, "", group)
                yield Discovered(Owner(entry.name), entry, "", fault)
            continue
        if not entries:  # before METADATA is read, which takes ten times as long
            continue
        name, version = _attribute(distribution, "name"), _attribute(distribution, "version")
        if name in seen - {""}:  # the first of a name on the path is what is imported
            continue
        seen.add(name)
        for entry in entries:
            owner = Owner(entry.name, name, version)
            try:
                yield Discovered(owner, entry, entry.module)
            except Exception:  # AttributeError, or what later versions of Python raise
                fault = f"its entry point {entry.value!r} is not the name of a module"
                yield Discovered(owner, entry, "", fault)


def _attribute(distribution: metadata.Distribution, name: str) -> str:
    """An attribute from its METADATA, which may be anything; empty if there is none."""
    try:
        return str(getattr(distribution, name) or "")
    except Exception:
        return ""


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
    installed = []
    for command in _installed(COMMANDS):
        package = command.module.partition(".")[0]
        owner = plugins.get(package) or replace(command.owner, name=package or command.owner.distribution)
        installed.append(replace(command, owner=owner))
    return tuple(sorted(installed, key=lambda command: command.entry.name))


def summary(command: Discovered) -> str:
    """The first line of a command's docstring, read from its source; empty if there is none."""
    try:
        tree = ast.parse(source_of(command.module).read_text(encoding="utf-8"))
    except Exception:  # also source that is nested too deeply: it costs no other command anything
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
