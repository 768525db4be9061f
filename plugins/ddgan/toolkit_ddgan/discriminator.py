"""Discriminators of single steps on the chain."""

from abc import ABC, abstractmethod
from itertools import pairwise
from math import log2, sqrt
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit import RecipeError
from toolkit_ddgan.embedding import sinusoids
from toolkit_ddgan.fir import Blur
from toolkit_ddgan.weights import NEARLY_ZERO, initialise, scale

Count = Annotated[int, Field(ge=1)]
TimeWidth = Annotated[int, Field(ge=4, multiple_of=2)]
SLOPE = 0.2  # of every leaky ReLU, as published


class TransitionDiscriminator(nn.Module, ABC):
    """Judges whether x_s precedes x_t on the chain, or a generator made it (Xiao et al. 2022)."""

    @abstractmethod
    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits (B,), high for real, from x_s and the noisier x_t (both (B, ...)) and the t (B,) of x_t."""


@final
class SmallDiscriminator(TransitionDiscriminator):
    """The published discriminator of 32x32 images, for images of any size.

    Args:
        channels: the widths are 2, 4 and 8 times this.
        time_width: width of the time embedding.
        halvings: how often the image is halved; by default until its shorter side has 4 pixels.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        channels: Count = 64,
        time_width: TimeWidth = 256,
        halvings: Count | None = None,
    ) -> None:
        super().__init__()
        n = halvings_to_four(sample_shape) if halvings is None else halvings
        self.trunk = Trunk(2 * sample_shape[0], channels, n, time_width, plain_block=True)
        scale(self.trunk.last_conv, NEARLY_ZERO, fan="out")  # so that all logits begin at 0

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        logits: Tensor = self.trunk(torch.cat([x_s, x_t], dim=1), t)
        return logits


@final
class LargeDiscriminator(TransitionDiscriminator):
    """The published discriminator of 256x256 images, for images of any size.

    Args:
        channels: the widths are 2, 4 and 8 times this.
        time_width: width of the time embedding.
        halvings: how often the image is halved; by default until its shorter side has 4 pixels.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        channels: Count = 64,
        time_width: TimeWidth = 256,
        halvings: Count | None = None,
    ) -> None:
        super().__init__()
        n = halvings_to_four(sample_shape) if halvings is None else halvings
        self.trunk = Trunk(2 * sample_shape[0], channels, n, time_width, plain_block=False)

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        logits: Tensor = self.trunk(torch.cat([x_s, x_t], dim=1), t)
        return logits


def halvings_to_four(sample_shape: tuple[int, ...]) -> int:
    """How often images of this shape are halved before their shorter side has 4 pixels; at least once."""
    if len(sample_shape) != 3:
        raise ValueError(f"works on images (channels, height, width), not on {sample_shape}")
    return max(1, int(log2(min(sample_shape[1:]) / 4)))


class Trunk(nn.Module):
    """From a pair of images to a logit; no normalisation layers.

    Args:
        in_channels: of both images together.
        channels: the widths are 2, 4 and 8 times this.
        halvings: number of residual blocks that halve the image.
        time_width: width of the time embedding.
        plain_block: begin with a residual block that does not halve it.
    """

    def __init__(
        self, in_channels: int, channels: int, halvings: int, time_width: int, plain_block: bool
    ) -> None:
        super().__init__()
        widths = [channels * min(2 ** (i + 1), 8) for i in range(halvings + 1)]
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(time_width, time_width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(time_width, time_width),
            nn.LeakyReLU(SLOPE),
        )
        self.first_conv = nn.Conv2d(in_channels, widths[0], kernel_size=1)
        self.blocks = nn.ModuleList(Block(a, b, time_width, halve=True) for a, b in pairwise(widths))
        if plain_block:
            self.blocks.insert(0, Block(widths[0], widths[0], time_width, halve=False))
        self.last_conv = nn.Conv2d(widths[-1] + 1, widths[-1], kernel_size=3, padding=1)
        self.head = nn.Linear(widths[-1], 1)
        for module in (self.time, self.first_conv, self.last_conv, self.head):
            initialise(module, fan="out")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(sinusoids(t, self.time_width).to(x.dtype))
        h = self.first_conv(x)
        for block in self.blocks:
            h = block(h, time)
        spread = minibatch_spread(h).expand(-1, 1, *h.shape[2:])
        h = F.leaky_relu(self.last_conv(torch.cat([h, spread], dim=1)), SLOPE)
        logits: Tensor = self.head(h.sum(dim=(2, 3)))
        return logits.squeeze(1)


class Block(nn.Module):
    """A residual block (B, C, H, W) -> (B, out_channels, H, W), or half the sides, told the time (B, D)."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, halve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.time = nn.Linear(time_width, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.resample = Blur(stride=2, padding=1) if halve else nn.Identity()
        initialise(self, fan="out")
        scale(self.conv2, NEARLY_ZERO, fan="out")

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, SLOPE)) + self.time(time)[:, :, None, None]
        h = self.conv2(self.resample(F.leaky_relu(h, SLOPE)))
        out: Tensor = (h + self.shortcut(self.resample(x))) / sqrt(2)
        return out


def minibatch_spread(h: Tensor) -> Tensor:
    """Standard deviation over groups of 4 rows, averaged over features: (B, 1, 1, 1) (Karras et al. 2018).

    Row b belongs to group b mod (B / 4). What a row gets depends on its micro-batch.

    Raises:
        RecipeError: if more than 4 rows do not divide into groups of 4.
    """
    size = min(len(h), 4)
    if len(h) % size:
        raise RecipeError(
            f"[run] the discriminator compares rows in groups of {size} and cannot judge {len(h)} at a time: "
            f"set batch_size and micro_batch_size to multiples of {size}."
        )
    variance: Tensor = h.unflatten(0, (size, -1)).var(dim=0, correction=0)
    spread = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(size)[:, None, None, None]
