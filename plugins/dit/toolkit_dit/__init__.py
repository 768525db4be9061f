"""Diffusion transformers (Peebles & Xie 2023)."""

from toolkit import Denoiser, Registry, hookimpl
from toolkit_dit.denoiser import DiT


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "dit", DiT)
