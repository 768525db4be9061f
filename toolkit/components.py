"""The core's own components, registered through the same hook as everybody's."""

import torch

from toolkit.data.digits import Digits
from toolkit.data.folder import ImageFolder
from toolkit.data.hub import HubDataset
from toolkit.data.source import DataSource
from toolkit.denoiser import Denoiser, Network
from toolkit.features import FeatureExtractor
from toolkit.hookspecs import hookimpl
from toolkit.importer import Importer
from toolkit.initialiser import Initialiser, Noise
from toolkit.metric import Metric
from toolkit.objective import DenoisingLoss, Objective
from toolkit.optimizer import Constant, Cosine, Linear, LRSchedule, adam, adamw, sgd
from toolkit.registry import Registry
from toolkit.sampler import DDIM, Ancestral, Sampler
from toolkit.schedule import NoiseSchedule, linear, stated_betas
from toolkit.solvers import DiffusersSampler
from toolkit.timesteps import Timesteps, Uniform
from toolkit.torchvision import define_missing_operators
from toolkit.unet import UNet

# The core's kinds. Declared before anything is added, so that a Timesteps, which is a module too, is not
# filed as a network.
KINDS = (
    DataSource, NoiseSchedule, Network, Objective, DenoisingLoss, Timesteps, torch.optim.Optimizer,
    LRSchedule, Sampler, Initialiser, Importer, Metric,
    FeatureExtractor,
)  # fmt: skip


@hookimpl
def toolkit_components(registry: Registry) -> None:
    define_missing_operators()  # before anything imports diffusers
    registry.declare(*KINDS)
    registry.add(DataSource, "digits", Digits)
    registry.add(DataSource, "datasets", HubDataset)
    registry.add(DataSource, "folder", ImageFolder)
    registry.add(NoiseSchedule, "linear", linear)
    registry.add(NoiseSchedule, "betas", stated_betas)
    registry.add(Denoiser, "unet", UNet)
    registry.add(Timesteps, "uniform", Uniform)
    registry.add(torch.optim.Optimizer, "adam", adam)
    registry.add(torch.optim.Optimizer, "adamw", adamw)
    registry.add(torch.optim.Optimizer, "sgd", sgd)
    registry.add(LRSchedule, "constant", Constant)
    registry.add(LRSchedule, "cosine", Cosine)
    registry.add(LRSchedule, "linear", Linear)
    registry.add(Sampler, "ancestral", Ancestral)
    registry.add(Sampler, "ddim", DDIM)
    registry.add(Sampler, "diffusers", DiffusersSampler)
    registry.add(Initialiser, "noise", Noise)
