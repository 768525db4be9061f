"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020)."""

from toolkit import Denoiser, DenoisingLoss, Objective, Registry, Sampler, hookimpl
from toolkit_ddpm.dilated import DilatedConv
from toolkit_ddpm.legacy import ClampedAncestral
from toolkit_ddpm.objective import DDPM, Simple
from toolkit_ddpm.points import MLPDenoiser

toolkit_api = 1


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "ddpm", DDPM)
    registry.add(DenoisingLoss, "simple", Simple)
    registry.add(Denoiser, "ddpm_mlp", MLPDenoiser)
    registry.add(Denoiser, "dilated_conv", DilatedConv)
    registry.add(Sampler, "clamped_ancestral", ClampedAncestral)
