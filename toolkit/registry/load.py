"""Load plugins one by one, and keep a broken one from taking anything else down.

pluggy's own loader reads the same entry points, but silently drops the second plugin of a name, and lets a
plugin that fails to import take the command line down.
"""

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy

from toolkit.console import say
from toolkit.errors import one_line, place_of
from toolkit.registry import hookspecs
from toolkit.registry.discover import Discovered, Owner, switched
from toolkit.registry.modes import unchanged_modes
from toolkit.registry.registry import Component, Registry

# The toolkit's own packages of components, registered through the same hook as a plugin's.
BUILTIN = ("toolkit.builtin", "toolkit.sources", "toolkit.hf", "toolkit.evaluation")
CORE = Owner("toolkit")


@dataclass(frozen=True)
class PluginReport:
    """The result of loading a plugin: its components, or the error that makes it unusable.

    Attributes:
        error: why it could not be loaded; None if it was.
        components: those that it adds, usable or not.
        place: `file:line` of its own code that failed; None if there is none.
        observers: the hooks by which it watches runs.
    """

    owner: Owner
    error: str | None
    components: tuple[Component, ...]
    place: str | None
    observers: tuple[str, ...]


@dataclass(frozen=True)
class Plugins:
    """Everything that the loaded plugins add.

    Attributes:
        registry: the components of the toolkit and of all plugins.
        hook: calls the plugins' hooks.
        reports: one for each plugin that is switched on, the toolkit's own first.
        switched_off: installed plugins that were not loaded.
    """

    registry: Registry
    hook: Any  # pluggy's relay, whose methods are the hooks
    reports: tuple[PluginReport, ...]
    switched_off: tuple[Owner, ...]

    def tell(self, observer: str, **facts: object) -> list[str]:
        """Call all observers of that name, even if one fails; print and return one line for each failure.

        What they change for all of torch is changed back: no hook changes training.
        """
        wrong = []
        for implementation in getattr(self.hook, observer).get_hookimpls():
            try:
                with unchanged_modes():
                    implementation.function(*(facts[name] for name in implementation.argnames))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # also sys.exit
                wrong.append(f"{implementation.plugin_name}: {observer}: {one_line(error)}")
                say(wrong[-1], "an observer failed")
        return wrong


def load() -> Plugins:
    """Load the toolkit's own components and every installed plugin that is switched on.

    Each set of plugins is loaded once per process.

    Raises:
        PluginError: if TOOLKIT_PLUGINS names a plugin that is not installed.
    """
    return _load(*switched())


@functools.cache
def _load(on: tuple[Discovered, ...], off: tuple[Discovered, ...]) -> Plugins:
    registry, relay = Registry(), _manager()
    registry.switched_off = tuple(plugin.owner.name for plugin in off)
    for module in BUILTIN:
        with registry.owned_by(CORE):
            _register(importlib.import_module(module), CORE, registry, relay)
    places: dict[Owner, str | None] = {}
    for plugin in on:
        try:
            with unchanged_modes(), registry.owned_by(plugin.owner):
                _register(plugin.load(), plugin.owner, registry, relay)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit
            registry.failures[plugin.owner] = one_line(error)
            places[plugin.owner] = place_of(error, plugin.module)
    added = registry.added()
    reports = tuple(
        PluginReport(
            owner,
            registry.failures.get(owner),
            tuple(component for component in added if component.owner == owner),
            places.get(owner),
            _observers(relay, owner),
        )
        for owner in (CORE, *(plugin.owner for plugin in on))
    )
    return Plugins(registry, relay.hook, reports, tuple(plugin.owner for plugin in off))


def _observers(relay: pluggy.PluginManager, owner: Owner) -> tuple[str, ...]:
    hooks = relay.get_hookcallers(relay.get_plugin(str(owner))) or ()
    return tuple(hook.name for hook in hooks if hook.name != "toolkit_components")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("toolkit")
    manager.add_hookspecs(hookspecs)
    return manager


def _register(module: ModuleType, owner: Owner, registry: Registry, relay: pluggy.PluginManager) -> None:
    """Call a module's own hook; its observers join the relay only if that succeeds."""
    alone = _manager()
    alone.register(module)
    alone.check_pending()
    alone.hook.toolkit_components(registry=registry)
    if owner is not CORE:
        relay.register(module, name=str(owner))
