"""The public names: what plugins and scripts may use. Everything else is private."""

from toolkit.data.batches import Batches
from toolkit.data.source import Batch, DataSource, UnreadableImages, to_float
from toolkit.diffusion.chain import Chain, kept_timesteps
from toolkit.diffusion.continuous import Continuous
from toolkit.diffusion.denoiser import Denoiser, Network
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.guidance import Ask, Guidance
from toolkit.diffusion.prediction import Prediction, Target, refuse_target
from toolkit.diffusion.sampler import Denoise, Noise, Sampler, walk
from toolkit.diffusion.sampler import Step as SamplerStep
from toolkit.diffusion.samplers import Heun
from toolkit.diffusion.schedule import NoiseSchedule, Scale, Steps, Time
from toolkit.diffusion.start import Start
from toolkit.diffusion.timesteps import TimestepSampler
from toolkit.errors import (
    CheckpointError,
    DataError,
    PluginError,
    RecipeError,
    RunError,
    SamplingError,
    ToolkitError,
    TrainingError,
)
from toolkit.evaluation.features import FeatureExtractor, Features
from toolkit.evaluation.metric import Metric, Score, Subject
from toolkit.hf.unet import TARGETS, UNET_LIMITS, check_unet, initialise_xavier, unet_shapes
from toolkit.pipeline.folder import Layout, Saved, SavedNetwork, load_network, locate
from toolkit.pipeline.from_run import TrainedEncoder
from toolkit.pipeline.images import to_grid, to_image, to_uint8
from toolkit.pipeline.importer import Importer, copy_weights, published_settings
from toolkit.pipeline.pipeline import Pipeline, PipelineOutput
from toolkit.python import Run, evaluate, load, train
from toolkit.randomness import generators_for, randn
from toolkit.recipe import read_data, read_recipe
from toolkit.registry.foreign import options_from
from toolkit.registry.hookspecs import hookimpl
from toolkit.registry.load import PluginReport, Plugins
from toolkit.registry.load import load as load_plugins
from toolkit.registry.registry import Component, Registry
from toolkit.registry.signature import Default, Outside, Positive, Rate
from toolkit.training.denoising import DenoisingObjective, SquaredError, Weighting
from toolkit.training.ema import gamma_of_width
from toolkit.training.objective import (
    DenoisingLoss,
    Length,
    Loss,
    Objective,
    Records,
    ScalarSchedule,
    Step,
    Turn,
    at_step,
    in_steps,
)
from toolkit.training.optimizers import LRSchedule
from toolkit.training.pace import step_seconds

__all__ = [
    "TARGETS", "UNET_LIMITS", "Ask", "Batch", "Batches", "Chain", "CheckpointError", "Component",
    "Continuous", "DataError", "DataSource", "Default", "Denoise", "Denoiser", "DenoisingLoss",
    "DenoisingObjective", "Encoder", "FeatureExtractor", "Features", "Guidance", "Heun", "Importer",
    "LRSchedule", "Layout", "Length", "Loss", "Metric", "Network", "Noise", "NoiseSchedule", "Objective",
    "Outside", "Pipeline", "PipelineOutput", "PluginError", "PluginReport", "Plugins", "Positive",
    "Prediction", "Rate", "RecipeError", "Records", "Registry", "Run", "RunError", "Sampler",
    "SamplerStep", "SamplingError", "Saved", "SavedNetwork", "ScalarSchedule", "Scale", "Score",
    "SquaredError", "Start", "Step", "Steps", "Subject", "Target", "Time", "TimestepSampler",
    "ToolkitError", "TrainedEncoder", "TrainingError", "Turn", "UnreadableImages", "Weighting",
    "at_step", "check_unet", "copy_weights", "evaluate", "gamma_of_width", "generators_for", "hookimpl",
    "in_steps", "initialise_xavier", "kept_timesteps", "load", "load_network", "load_plugins", "locate",
    "options_from", "published_settings", "randn", "read_data", "read_recipe", "refuse_target",
    "step_seconds", "to_float", "to_grid", "to_image", "to_uint8", "train", "unet_shapes", "walk",
]  # fmt: skip
