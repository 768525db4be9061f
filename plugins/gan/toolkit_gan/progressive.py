"""The networks of progressive growing (Karras et al. 2018): a level for each doubling of 4x4 pixels.

Both work on images of full size, as in the authors' TensorFlow code: at a lower level the generator's images
are squares of equal pixels, and the discriminator first averages each square to one pixel.
"""

from itertools import pairwise
from math import ceil, sqrt
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit import NoiseSchedule
from toolkit_gan.interfaces import Discriminator, Generator, check_shape, doublings

Count = Annotated[int, Field(ge=1)]


@final
class Growth(nn.Module):
    """How far a network has grown: stage 1.0 is level 1 as a whole, 1.25 is level 2 faded in by a quarter.

    The stage is saved with the network, and yet no buffer, which an average of the network would blur.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last, self.stage = last, float(last)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.stage, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.stage = float(state)


def seen(stage: float) -> tuple[int, float]:
    """The highest level used at a stage, and its share, in (0, 1]; the rest is from the level below."""
    level = ceil(stage)
    return level, 1 - (level - stage)


def asleep(network: nn.Module, stage: float) -> set[str]:
    """The parameters of one of these networks that are not used at a stage."""
    level, share = seen(stage)
    ends = [level] if share == 1 else [level, level - 1]
    used = [f"blocks.{i}." for i in range(level + 1)] + [f"rgb.{i}." for i in ends]
    return {name for name, _ in network.named_parameters() if not name.startswith(tuple(used))}


def faded(low: Tensor, high: Tensor, share: float) -> Tensor:
    """(1 - share) low + share high; autocast may have given the two different types."""
    return torch.lerp(low.to(high.dtype), high, share)


def at_stage(images: Tensor, growth: Growth) -> Tensor:
    """Real images (B, C, H, W) as a generator would draw them at a stage: in squares, and faded alike."""
    level, share = seen(growth.stage)
    x = F.avg_pool2d(images, 2 ** (growth.last - level))
    if share < 1:
        x = faded(doubled(F.avg_pool2d(x, 2)), x, share)
    return F.interpolate(x, size=images.shape[-1])


@final
class ProgressiveGenerator(Generator):
    """Two convolutions a level; `rgb` makes pixels of a level's map, without tanh.

    A new one is fully grown; the objective `progressive_gan` takes it back to 4x4 pixels. It samples at the
    stage that its training has reached.

    23,079,115 parameters for 3x1024x1024 images.

    Args:
        latent_width: length of z.
        width: the most channels that a map has.
        base: channels times side of maps that have fewer.

    Raises:
        ValueError: if the image is not square, with a side of 8, 16, 32, 64, ...
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        latent_width: Count = 512,
        width: Count = 512,
        base: Count = 16384,
    ) -> None:
        super().__init__()
        self.schedule, self.latent_width, self.side = schedule, latent_width, sample_shape[-1]
        widths = level_widths(sample_shape, width, base)
        self.growth = Growth(len(widths) - 1)
        first = EqualisedConv(latent_width, widths[0], 4, padding=3)  # a 4x4 map of one pixel
        blocks = [nn.Sequential(PixelNorm(), first, *rest(), EqualisedConv(widths[0], widths[0], 3), *rest())]
        for low, high in pairwise(widths):
            convs = EqualisedConv(low, high, 3), EqualisedConv(high, high, 3)
            blocks.append(nn.Sequential(nn.Upsample(scale_factor=2), convs[0], *rest(), convs[1], *rest()))
        self.blocks = nn.ModuleList(blocks)
        self.rgb = nn.ModuleList(EqualisedConv(w, sample_shape[0], 1, gain=1.0) for w in widths)

    def images(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        level, share = seen(self.growth.stage)
        h = before = z[:, :, None, None]
        for block in self.blocks[: level + 1]:
            before, h = h, block(h)
        x: Tensor = self.rgb[level](h)
        if share < 1:
            x = faded(doubled(self.rgb[level - 1](before)), x, share)
        return F.interpolate(x, size=self.side)


@final
class ProgressiveDiscriminator(Discriminator):
    """The generator's mirror image; its last block sees how much the images of the batch differ.

    23,087,249 parameters for 3x1024x1024 images.

    Args:
        width: the most channels that a map has.
        base: channels times side of maps that have fewer.

    Raises:
        ValueError: if the image is not square, with a side of 8, 16, 32, 64, ...; or if, later, an image has
            another size.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: Count = 512, base: Count = 16384) -> None:
        super().__init__()
        self.sample_shape = sample_shape
        widths = level_widths(sample_shape, width, base)
        self.growth = Growth(len(widths) - 1)
        first = widths[0]
        last = EqualisedConv(first + 1, first, 3), EqualisedConv(first, first, 4, padding=0)
        logit = EqualisedConv(first, 1, 1, gain=1.0)
        blocks = [nn.Sequential(Spread(), last[0], active(), last[1], active(), logit)]
        for low, high in pairwise(widths):
            convs = EqualisedConv(high, high, 3), EqualisedConv(high, low, 3)
            blocks.append(nn.Sequential(convs[0], active(), convs[1], active(), nn.AvgPool2d(2)))
        self.blocks = nn.ModuleList(blocks)
        self.rgb = nn.ModuleList(
            nn.Sequential(EqualisedConv(sample_shape[0], w, 1), active()) for w in widths
        )

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        check_shape(x, self.sample_shape)
        level, share = seen(self.growth.stage)
        x = F.avg_pool2d(x, 2 ** (self.growth.last - level))
        h: Tensor = self.rgb[level](x)
        for i in range(level, -1, -1):
            h = self.blocks[i](h)
            if i == level and share < 1:
                h = faded(self.rgb[level - 1](F.avg_pool2d(x, 2)), h, share)
        return h.flatten()


class EqualisedConv(nn.Module):
    """A convolution with weights from N(0, 1), multiplied by gain / sqrt(inputs of an output) in every pass.

    Adam's steps do not depend on the scale of a gradient: so they change all layers at the same rate.
    """

    def __init__(
        self, before: int, after: int, kernel: int, padding: int | None = None, gain: float = sqrt(2)
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))
        self.scale = gain / sqrt(before * kernel**2)
        self.padding = kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class PixelNorm(nn.Module):
    """Scale the channels (B, C, ...) of each pixel to a mean square of 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class Spread(nn.Module):
    """One channel more: the standard deviation over the batch, averaged over channels and pixels."""

    def forward(self, x: Tensor) -> Tensor:
        spread = (x.float().var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        return torch.cat([x, spread.to(x.dtype).expand(len(x), 1, *x.shape[2:])], dim=1)


def active() -> nn.Module:
    return nn.LeakyReLU(0.2)


def rest() -> tuple[nn.Module, nn.Module]:
    """What follows a convolution of the generator."""
    return active(), PixelNorm()


def level_widths(sample_shape: tuple[int, ...], width: int, base: int) -> list[int]:
    """Channels of the maps of each level, that of 4x4 pixels first.

    Raises:
        ValueError: if doubling 4x4 pixels does not lead to images of this shape.
    """
    first, n = doublings(sample_shape)
    if first != 4:
        side = sample_shape[1]
        raise ValueError(
            f"grows from 4x4 pixels, so the side must be 8, 16, 32, 64, ..., not {side}: set data.size"
        )
    return [max(1, min(width, base // 2 ** (i + 2))) for i in range(n + 1)]


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)
