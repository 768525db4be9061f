"""Load plugins one by one, and keep a broken one from taking anything else down.

pluggy's own loader takes the same entry points, but drops the second plugin of a name silently, and lets one
that fails to import take the command line down.
"""

import functools
import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pluggy

from toolkit import API_VERSION, hookspecs
from toolkit.component import Component
from toolkit.errors import PluginError
from toolkit.installed import Discovered, Owner, stated_api, switched
from toolkit.registry import Registry


@dataclass(frozen=True)
class PluginReport:
    """What became of a plugin: its components, or the error that keeps it from being used.

    Attributes:
        api: the version of the interface that it states.
        place: the line of its own code that failed.
        observers: the hooks by which it watches runs.
    """

    name: str
    distribution: str
    version: str
    error: str | None
    components: tuple[Component, ...]
    api: int | None
    place: str | None
    observers: tuple[str, ...]


@dataclass(frozen=True)
class Plugins:
    """All that plugins have added; `hook` calls their observers."""

    registry: Registry
    hook: Any  # pluggy's relay, whose methods are the hooks
    reports: tuple[PluginReport, ...]
    switched_off: tuple[Owner, ...] = ()

    def tell(self, observer: str, **facts: object) -> list[str]:
        """Call the observers of that name, each whatever became of the others; returns what went wrong."""
        wrong = []
        for implementation in getattr(self.hook, observer).get_hookimpls():
            try:
                implementation.function(*(facts[name] for name in implementation.argnames))
            except Exception as error:
                wrong.append(f"{implementation.plugin_name}: {observer}: {_one_line(error)}")
        return wrong


def load() -> Plugins:
    """Load the core's own components and every installed plugin that is switched on.

    Raises:
        PluginError: if TOOLKIT_PLUGINS names a plugin that is not installed.
    """
    on, off = switched()
    everything = functools.cache(lambda: _load((*on, *off)).registry) if off else None
    return replace(_load(on, everything), switched_off=tuple(plugin.owner for plugin in off))


def _load(plugins: tuple[Discovered, ...], beyond: Callable[[], Registry] | None = None) -> Plugins:
    core = Discovered(Owner("toolkit"), "toolkit.components", _core)
    registry, relay = Registry(beyond), _manager()
    places: dict[Owner, str | None] = {}
    for plugin in (core, *plugins):
        try:
            with registry.owned_by(plugin.owner):
                _register(plugin, registry, relay)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit
            registry.failures[plugin.owner] = _one_line(error)
            places[plugin.owner] = _place(error, plugin.module)
    added = registry.added()
    reports = tuple(
        PluginReport(
            plugin.owner.name,
            plugin.owner.distribution,
            plugin.owner.version,
            registry.failures.get(plugin.owner),
            tuple(component for component in added if component.owner == plugin.owner),
            stated_api(plugin.module),
            places.get(plugin.owner),
            _observers(relay, plugin.owner),
        )
        for plugin in (core, *plugins)
    )
    return Plugins(registry, relay.hook, reports)


def _observers(relay: pluggy.PluginManager, owner: Owner) -> tuple[str, ...]:
    hooks = relay.get_hookcallers(relay.get_plugin(str(owner))) or ()
    return tuple(hook.name for hook in hooks if hook.name != "toolkit_components")


def _one_line(error: BaseException) -> str:
    said = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())


def _place(error: BaseException, module: str) -> str | None:
    """`file:line` of the plugin's own code, the innermost, where the error came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = module.partition(".")[0]
    own = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return own[-1] if own else None


def _core() -> Any:
    return importlib.import_module("toolkit.components")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("toolkit")
    manager.add_hookspecs(hookspecs)
    return manager


def _register(plugin: Discovered, registry: Registry, relay: pluggy.PluginManager) -> None:
    """Import a plugin and call its own hook; its observers join the relay only when that went well.

    Raises:
        PluginError: if it states another version of the interface than this toolkit has.
    """
    api = stated_api(plugin.module)
    if api is not None and api != API_VERSION:
        newer = "diffusion-toolkit" if api > API_VERSION else plugin.owner.distribution
        raise PluginError(
            f"it is written for version {api} of the plugin interface, and this toolkit has version "
            f"{API_VERSION}: install a newer {newer}"
        )
    module = plugin.load()
    alone = _manager()
    alone.register(module)
    alone.check_pending()
    alone.hook.toolkit_components(registry=registry)
    relay.register(module, name=str(plugin.owner))
