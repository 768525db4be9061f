"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020)."""

from toolkit import Denoiser, Registry, Sampler, hookimpl
from toolkit_ddpm.dilated import DilatedConv
from toolkit_ddpm.legacy import ClampedAncestral
from toolkit_ddpm.points import MLPDenoiser


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "ddpm_mlp", MLPDenoiser)
    registry.add(Denoiser, "dilated_conv", DilatedConv)
    registry.add(Sampler, "clamped_ancestral", ClampedAncestral)
