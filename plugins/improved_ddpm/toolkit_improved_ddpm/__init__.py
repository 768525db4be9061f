"""Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal 2021)."""

from toolkit import DenoisingLoss, Importer, Metric, NoiseSchedule, Registry, hookimpl
from toolkit_improved_ddpm.importer import OfficialUNet
from toolkit_improved_ddpm.losses import VLB, Hybrid
from toolkit_improved_ddpm.nll import NLL
from toolkit_improved_ddpm.schedule import cosine_betas


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(NoiseSchedule, "cosine_betas", cosine_betas)
    registry.add(DenoisingLoss, "hybrid", Hybrid)
    registry.add(DenoisingLoss, "vlb", VLB)
    registry.add(Metric, "nll", NLL)
    registry.add(Importer, "improved_ddpm", OfficialUNet)
