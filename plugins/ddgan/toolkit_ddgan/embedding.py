"""What a network is told besides images: the timestep and the latent."""

import math

import torch
from torch import Tensor, nn


def sinusoids(t: Tensor, width: int) -> Tensor:
    """sin and cos of t (B,) at width / 2 frequencies from 1 down to 1e-4: (B, width), sines first."""
    half = width // 2
    # DDPM's code divides by half - 1, so that the last frequency is exactly 1e-4.
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000) / (half - 1)))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PixelNorm(nn.Module):
    """Scales each row of z (B, width) to mean square 1 (Karras et al. 2018)."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)


def latent_mapping(latent_width: int, width: int, layers: int) -> nn.Sequential:
    """From z (B, latent_width) to the style w (B, width): one layer in, then `layers` more."""
    modules: list[nn.Module] = [PixelNorm(), nn.Linear(latent_width, width), nn.SiLU()]
    for _ in range(layers):
        modules += [nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*modules)
