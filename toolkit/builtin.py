"""The kernel's own kinds and components, registered through the same hook as everybody's."""

import torch

from toolkit.data.source import DataSource
from toolkit.diffusion.chain import linear, listed_betas, vp_sde
from toolkit.diffusion.continuous import EDM, VP, Cosine, RectifiedFlow
from toolkit.diffusion.denoiser import Network
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.guidance import ClassifierFree, Guidance
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.samplers import DDIM, Ancestral, Consistency, DPMSolver, Euler, Heun
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Noise, Start
from toolkit.diffusion.timesteps import LogitNormal, LogNormal, Stratified, TimestepSampler, Uniform
from toolkit.pipeline.autoguidance import Autoguidance
from toolkit.pipeline.folder import Layout
from toolkit.pipeline.from_run import TrainedEncoder
from toolkit.pipeline.importer import Importer
from toolkit.registry.hookspecs import hookimpl
from toolkit.registry.registry import Registry
from toolkit.training.denoising import Denoising, EDMWeighting, MinSNR, SquaredError, Unweighted, Weighting
from toolkit.training.objective import (
    CosineScalar,
    DenoisingLoss,
    LinearScalar,
    Objective,
    ScalarSchedule,
)
from toolkit.training.optimizers import Constant, Linear, LRSchedule, adam, adamw, sgd
from toolkit.training.optimizers import Cosine as CosineRate

# Declared before anything is added: otherwise a TimestepSampler, also a module, would be filed as a network.
KINDS = (
    DataSource, NoiseSchedule, Network, Objective, DenoisingLoss, TimestepSampler, torch.optim.Optimizer,
    LRSchedule, ScalarSchedule, Sampler, Guidance, Encoder, Start, Weighting, Importer, Layout,
)  # fmt: skip


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.declare(*KINDS)
    registry.add(NoiseSchedule, "linear", linear)
    registry.add(NoiseSchedule, "betas", listed_betas)
    registry.add(NoiseSchedule, "vp_sde", vp_sde)
    registry.add(NoiseSchedule, "rectified_flow", RectifiedFlow)
    registry.add(NoiseSchedule, "edm", EDM)
    registry.add(NoiseSchedule, "vp", VP)
    registry.add(NoiseSchedule, "cosine", Cosine)
    registry.add(TimestepSampler, "uniform", Uniform)
    registry.add(TimestepSampler, "stratified", Stratified)
    registry.add(TimestepSampler, "logit_normal", LogitNormal)
    registry.add(TimestepSampler, "log_normal", LogNormal)
    registry.add(Objective, "denoising", Denoising)
    registry.add(DenoisingLoss, "squared_error", SquaredError)
    registry.add(Weighting, "none", Unweighted)
    registry.add(Weighting, "min_snr", MinSNR)
    registry.add(Weighting, "edm", EDMWeighting)
    registry.add(torch.optim.Optimizer, "adam", adam)
    registry.add(torch.optim.Optimizer, "adamw", adamw)
    registry.add(torch.optim.Optimizer, "sgd", sgd)
    registry.add(LRSchedule, "constant", Constant)
    registry.add(LRSchedule, "cosine", CosineRate)
    registry.add(LRSchedule, "linear", Linear)
    registry.add(ScalarSchedule, "cosine", CosineScalar)
    registry.add(ScalarSchedule, "linear", LinearScalar)
    registry.add(Sampler, "ancestral", Ancestral)
    registry.add(Sampler, "ddim", DDIM)
    registry.add(Sampler, "euler", Euler)
    registry.add(Sampler, "heun", Heun)
    registry.add(Sampler, "dpm_solver", DPMSolver)
    registry.add(Sampler, "consistency", Consistency)
    registry.add(Guidance, "cfg", ClassifierFree)
    registry.add(Guidance, "autoguidance", Autoguidance)
    registry.add(Encoder, "trained", TrainedEncoder)
    registry.add(Start, "noise", Noise)
