"""Networks for points, such as the 25 Gaussians of the paper: fully connected, as there."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit import NoiseSchedule
from toolkit_ddgan.discriminator import SLOPE, TransitionDiscriminator
from toolkit_ddgan.embedding import sinusoids
from toolkit_ddgan.generator import Generator

Count = Annotated[int, Field(ge=1)]
TIME_WIDTH = 16  # ours: the paper does not say how its networks are told t


@final
class MLPGenerator(Generator):
    """Fully connected layers on x_t, z and sinusoids of t; the output is not bounded.

    Args:
        width: of each hidden layer; the paper takes 512.
        layers: number of hidden layers.
        latent_width: length of z; 0 for a generator that draws one point for each x_t.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        width: Count = 512,
        layers: Count = 3,
        latent_width: Annotated[int, Field(ge=0)] = 4,
    ) -> None:
        super().__init__()
        self.schedule, self.latent_width = schedule, latent_width
        size = prod(sample_shape)
        self.net = mlp([size + latent_width + TIME_WIDTH, *[width] * layers, size])

    def clean(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([x_t.flatten(1), z, sinusoids(t, TIME_WIDTH)], dim=1))
        return out.view_as(x_t)


@final
class MLPDiscriminator(TransitionDiscriminator):
    """Fully connected layers on x_s, x_t and sinusoids of t.

    Args:
        width: of each hidden layer; the paper takes 512.
        layers: number of hidden layers.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: Count = 512, layers: Count = 3) -> None:
        super().__init__()
        self.net = mlp([2 * prod(sample_shape) + TIME_WIDTH, *[width] * layers, 1])

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        inputs = torch.cat([x_s.flatten(1), x_t.flatten(1), sinusoids(t, TIME_WIDTH)], dim=1)
        logits: Tensor = self.net(inputs)
        return logits.squeeze(1)


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with leaky ReLUs between them."""
    modules: list[nn.Module] = []
    for into, out in pairwise(widths):
        modules += [nn.Linear(into, out), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*modules[:-1])
