"""Everything that a plugin may hook into: one hook that adds components, four that watch a run.

No hook changes training; what changes training is a component that the recipe names. An implementation is a
function of the same name marked with `toolkit.hookimpl`, and may leave out arguments that it does not need.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from toolkit.registry import Registry

hookspec = pluggy.HookspecMarker("toolkit")
hookimpl = pluggy.HookimplMarker("toolkit")


@hookspec
def toolkit_components(registry: "Registry") -> None:
    """Called once, when plugins are loaded: `registry.add(interface, name, component)` for each component."""


@hookspec
def toolkit_run_started(run: Any) -> None:
    """Called on the main process when the run folder exists and before the first step, also on resuming."""


@hookspec
def toolkit_step_done(run: Any, step: int, logs: dict[str, float]) -> None:
    """Called on the main process after a step whose logs were recorded; `step` counts from 1."""


@hookspec
def toolkit_checkpoint_saved(run: Any, path: Path) -> None:
    """Called on the main process when the checkpoint in the folder `path` is complete."""


@hookspec
def toolkit_run_ended(run: Any) -> None:
    """Called on the main process when training has ended, was stopped, or failed."""
