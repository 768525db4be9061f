"""A plugin-based toolkit for diffusion models and their GAN hybrids.

These names are what plugins may use; everything else is private. They are imported when first asked for, so
that the command line answers before torch is there.
"""

import importlib
from typing import TYPE_CHECKING, Any

from toolkit.hookspecs import hookimpl

__version__ = "0.1.0"
API_VERSION = 1  # of the interface to plugins, which state it as `toolkit_api`; raised when older ones break

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.data.batch import Batch
    from toolkit.data.batches import Batches
    from toolkit.data.source import DataSource
    from toolkit.denoiser import Denoiser, Network, Prediction
    from toolkit.errors import (
        CheckpointError,
        DataError,
        PluginError,
        RecipeError,
        RunError,
        ToolkitError,
        TrainingError,
    )
    from toolkit.features import FeatureExtractor, Features
    from toolkit.foreign import options_from
    from toolkit.grid import to_grid, to_image
    from toolkit.importer import Importer
    from toolkit.initialiser import Initialiser
    from toolkit.metric import Metric, Score, Subject
    from toolkit.network_folder import SavedNetwork, load_network
    from toolkit.objective import DenoisingLoss, Loss, Objective, Records, Step, Turn
    from toolkit.optimizer import LRSchedule
    from toolkit.pipeline import Pipeline, PipelineOutput
    from toolkit.randomness import randn
    from toolkit.registry import Registry
    from toolkit.sampler import Draws, Sampler, below, calls
    from toolkit.schedule import NoiseSchedule, kept_timesteps
    from toolkit.signature import Default
    from toolkit.timesteps import Timesteps
    from toolkit.unet import initialise_xavier, unet_shapes

_WHERE = {
    "toolkit.data.batch": ("Batch",),
    "toolkit.data.batches": ("Batches",),
    "toolkit.data.source": ("DataSource",),
    "toolkit.denoiser": ("Denoiser", "Network", "Prediction"),
    "toolkit.errors": (
        "CheckpointError",
        "DataError",
        "PluginError",
        "RecipeError",
        "RunError",
        "ToolkitError",
        "TrainingError",
    ),
    "toolkit.features": ("FeatureExtractor", "Features"),
    "toolkit.foreign": ("options_from",),
    "toolkit.grid": ("to_grid", "to_image"),
    "toolkit.importer": ("Importer",),
    "toolkit.initialiser": ("Initialiser",),
    "toolkit.metric": ("Metric", "Score", "Subject"),
    "toolkit.network_folder": ("SavedNetwork", "load_network"),
    "toolkit.objective": ("DenoisingLoss", "Loss", "Objective", "Records", "Step", "Turn"),
    "toolkit.optimizer": ("LRSchedule",),
    "toolkit.pipeline": ("Pipeline", "PipelineOutput"),
    "toolkit.randomness": ("randn",),
    "toolkit.registry": ("Registry",),
    "toolkit.sampler": ("Draws", "Sampler", "below", "calls"),
    "toolkit.schedule": ("NoiseSchedule", "kept_timesteps"),
    "toolkit.signature": ("Default",),
    "toolkit.timesteps": ("Timesteps",),
    "toolkit.unet": ("initialise_xavier", "unet_shapes"),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "API_VERSION", "Batch", "Batches", "CheckpointError", "DataError", "DataSource", "Default", "Denoiser",
    "DenoisingLoss",
    "Draws", "FeatureExtractor", "Features", "Importer", "Initialiser", "LRSchedule", "Loss", "Metric",
    "Network", "NoiseSchedule", "Objective", "Pipeline", "PipelineOutput", "PluginError", "Prediction",
    "RecipeError", "Records", "Registry", "RunError", "Sampler", "SavedNetwork", "Score", "Step", "Subject",
    "Timesteps", "ToolkitError", "TrainingError", "Turn", "__version__", "below", "calls", "hookimpl",
    "initialise_xavier", "kept_timesteps", "load", "load_network", "options_from", "randn", "to_grid",
    "to_image", "unet_shapes",
]  # fmt: skip


def load(path: "str | Path") -> "Pipeline":
    """A trained pipeline: from a pipeline folder, a run folder, a diffusers folder or a Hub id.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        PluginError: naming the plugin that it needs and that is not installed.
    """
    from toolkit.pipeline import Pipeline

    return Pipeline.from_pretrained(path)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE[name]), name)
