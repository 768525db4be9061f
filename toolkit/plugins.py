"""Find plugins, load them one by one, and keep a broken one from taking anything else down.

A plugin is an entry point in the group "toolkit", as pluggy's own loader would take it. That loader drops the
second plugin of a name silently, and lets one that fails to import take the command line down.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import pluggy

from toolkit import hookspecs
from toolkit.component import Component, Owner
from toolkit.registry import Registry

GROUP = "toolkit"


@dataclass(frozen=True)
class Discovered:
    """A plugin that is installed; `load` imports it."""

    owner: Owner
    module: str
    load: Callable[[], Any]


@dataclass(frozen=True)
class PluginReport:
    """What became of a plugin: its components, or the error that keeps it from being used."""

    name: str
    distribution: str
    version: str
    error: str | None
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Plugins:
    """All that plugins have added; `hook` calls their observers."""

    registry: Registry
    hook: Any  # pluggy's relay, whose methods are the hooks
    reports: tuple[PluginReport, ...]

    def tell(self, observer: str, **facts: object) -> list[str]:
        """Call the observers of that name, each whatever became of the others; returns what went wrong."""
        wrong = []
        for implementation in getattr(self.hook, observer).get_hookimpls():
            try:
                implementation.function(*(facts[name] for name in implementation.argnames))
            except Exception as error:
                wrong.append(f"{implementation.plugin_name}: {observer}: {_one_line(error)}")
        return wrong


def discover() -> tuple[Discovered, ...]:
    """The installed plugins by name, without importing them."""
    found = []
    for entry in metadata.entry_points(group=GROUP):
        distribution, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
        found.append(Discovered(Owner(entry.name, distribution, version), entry.module, entry.load))
    return tuple(sorted(found, key=lambda plugin: (plugin.owner.name, plugin.owner.distribution)))


def load() -> Plugins:
    """Load the core's own components and every installed plugin."""
    core = Discovered(Owner("toolkit"), "toolkit.components", _core)
    registry, relay = Registry(), _manager()
    plugins = (core, *discover())
    for plugin in plugins:
        try:
            with registry.owned_by(plugin.owner):
                _register(plugin, registry, relay)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit
            registry.failures[plugin.owner] = _one_line(error)
    added = registry.added()
    reports = tuple(
        PluginReport(
            owner.name,
            owner.distribution,
            owner.version,
            registry.failures.get(owner),
            tuple(component for component in added if component.owner == owner),
        )
        for owner in (plugin.owner for plugin in plugins)
    )
    return Plugins(registry, relay.hook, reports)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _core() -> Any:
    return importlib.import_module("toolkit.components")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("toolkit")
    manager.add_hookspecs(hookspecs)
    return manager


def _register(plugin: Discovered, registry: Registry, relay: pluggy.PluginManager) -> None:
    """Import a plugin and call its own hook; its observers join the relay only when that went well."""
    module = plugin.load()
    alone = _manager()
    alone.register(module)
    alone.check_pending()
    alone.hook.toolkit_components(registry=registry)
    relay.register(module, name=str(plugin.owner))
