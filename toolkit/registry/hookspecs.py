"""The hooks that a plugin can implement: one adds components, five watch runs.

No hook changes training: only components that the recipe names do. An implementation is a function of the
same name, marked with `toolkit.hookimpl`; it may leave out arguments that it does not need.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from toolkit.registry.registry import Registry

hookspec = pluggy.HookspecMarker("toolkit")
hookimpl = pluggy.HookimplMarker("toolkit")


@hookspec
def toolkit_components(registry: "Registry") -> None:
    """Called once, when plugins are loaded: `registry.add(interface, name, component)` for each component."""


@hookspec
def toolkit_run_started(run: Any) -> None:
    """Called on the main process once the run folder exists, before the first step; also on resuming."""


@hookspec
def toolkit_step_done(run: Any, step: int, logs: dict[str, float]) -> None:
    """Called on the main process after a step whose logs were recorded; `step` counts from 1."""


@hookspec
def toolkit_checkpoint_saved(run: Any, path: Path) -> None:
    """Called on the main process when the checkpoint in the folder `path` is complete."""


@hookspec
def toolkit_run_ended(run: Any) -> None:
    """Called on the main process when training has finished, was stopped, or failed."""


@hookspec
def toolkit_pipeline_saved(folder: Path, run: Path | None) -> None:
    """Called when a pipeline's `folder` is complete, and again when its scores or cost have been measured.

    `run` is the run folder that it belongs to; None for a pipeline that is kept elsewhere.
    """
