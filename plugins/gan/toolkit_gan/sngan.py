"""SNGAN's residual networks (Miyato et al. 2018), published for 32x32 images; depth follows from the size.

SAGAN's (Zhang et al. 2019) are these with spectral normalisation in the generator too, self-attention in
both, and for labelled images conditional batch normalisation and a projection.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from toolkit import NoiseSchedule
from toolkit_gan.attention import SelfAttention
from toolkit_gan.interfaces import Discriminator, Generator, check_shape, classes_of, doublings

Count = Annotated[int, Field(ge=1)]
TIME_WIDTH = 32


@final
class SNGANGenerator(Generator):
    """Residual blocks that double a map of 4 to 7 pixels a side until it is the image.

    4,276,739 parameters for 3x32x32 images.

    Args:
        latent_width: length of z.
        width: channels of all maps.
        attention: sides of the maps that self-attention is put on (SAGAN; not in SNGAN).
        conditional: batch normalisation has a scale and a shift for each class (SAGAN).
        spectral_norm: divide every weight matrix by its largest singular value (SAGAN; not in SNGAN).

    Raises:
        ValueError: if the image is not square and of such a side, no map has a side named by `attention`, or
            there are no classes.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        latent_width: Count = 128,
        width: Count = 256,
        attention: tuple[int, ...] = (),
        num_classes: int | None = None,
        conditional: bool = False,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.schedule, self.latent_width, self.conditional = schedule, latent_width, conditional
        classes = classes_of(num_classes, conditional)
        base, n = doublings(sample_shape)
        self.first_map = (width, base, base)
        self.linear = nn.Linear(latent_width, width * base**2)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        sides = [base * 2 ** (i + 1) for i in range(n)]
        blocks = [DoublingBlock(width, classes) for _ in sides]
        self.blocks = with_attention(blocks, sides, width, attention)
        self.norm = ClassNorm(width, classes)
        self.last_conv = conv(width, sample_shape[0], 3)
        if spectral_norm:
            normalise(self)

    def images(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.linear(z).unflatten(1, self.first_map)
        for block in self.blocks:
            h = block(h, label)
        out: Tensor = self.last_conv(F.relu(self.norm(h, label)))
        return out.tanh()


@final
class SNGANDiscriminator(Discriminator):
    """Residual blocks, those that halve the image first; the sum over the map gives the logit.

    1,053,824 parameters for 3x32x32 images, which are halved twice; others until the side is from 7 to 13,
    but at least once. Two more blocks keep the size.

    Args:
        width: channels of all maps.
        attention: sides of the maps that self-attention is put on (SAGAN; not in SNGAN).
        spectral_norm: divide every weight matrix by its largest singular value, estimated by one power
            iteration a forward pass in training. Without it the network is a critic for a gradient penalty.
        conditional: add the inner product of the last features and a vector of the class (projection,
            Miyato & Koyama 2018).
        timed: add the inner product of the last features and a vector of the strength of augmentation, such
            as the time t of Diffusion-GAN.

    Raises:
        ValueError: if the image is not square and of a side as the generator's, no map has a side that
            `attention` names, or there are no classes; or if, later, an image has another size.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        width: Count = 128,
        attention: tuple[int, ...] = (),
        spectral_norm: bool = True,
        num_classes: int | None = None,
        conditional: bool = False,
        timed: bool = False,
    ) -> None:
        super().__init__()
        self.sample_shape, self.conditional, self.timed = sample_shape, conditional, timed
        classes = classes_of(num_classes, conditional)
        side, halvings = sample_shape[-1], halvings_of(sample_shape)
        sides = [side // 2 ** min(i + 1, halvings) for i in range(halvings + 2)]
        others = [JudgingBlock(width, halve=i < halvings) for i in range(1, halvings + 2)]
        blocks = [FirstBlock(sample_shape[0], width), *others]
        self.blocks = with_attention(blocks, sides, width, attention)
        self.linear = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.projection = None if classes is None else nn.Embedding(classes, width)
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection.weight)
        self.time_projection = nn.Linear(TIME_WIDTH, width) if timed else None
        if spectral_norm:
            normalise(self)

    def forward(self, x: Tensor, label: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        check_shape(x, self.sample_shape)
        h = F.relu(self.blocks(x)).sum(dim=(2, 3))
        logits: Tensor = self.linear(h).squeeze(1)
        if self.projection is not None:
            logits = logits + (h * self.projection(label)).sum(1)
        if self.time_projection is not None:
            assert t is not None, "a timed discriminator is told how strongly each image is augmented"
            logits = logits + (h * self.time_projection(sinusoids(t))).sum(1)
        return logits


def sinusoids(t: Tensor) -> Tensor:
    """Cosines and sines of times t (B,), (B, TIME_WIDTH), at frequencies from 1 down to 1 / 1000."""
    angles = t[:, None] * torch.logspace(0, -3, TIME_WIDTH // 2, device=t.device)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def halvings_of(sample_shape: tuple[int, ...]) -> int:
    """How often the discriminator halves images of this shape: 32 -> 8, 28 -> 7, 16 -> 8."""
    base, n = doublings(sample_shape)
    return n if base == 7 else max(1, n - 1)


def normalise(network: nn.Module) -> None:
    """Spectral normalisation of every weight matrix, that of the projection too; its vectors are buffers."""
    for module in [*network.modules()]:
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            spectral_norm(module)


def conv(before: int, after: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the size, with Xavier-uniform weights and no bias at first."""
    made = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.xavier_uniform_(made.weight, gain)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def with_attention(
    blocks: Sequence[nn.Module], sides: list[int], width: int, attention: tuple[int, ...]
) -> nn.Sequential:
    """The blocks, whose outputs have these sides, with attention after the last one of each side named.

    Raises:
        ValueError: if no block ends at a side that is named.
    """
    if missing := [side for side in attention if side not in sides]:
        listed = ", ".join(map(str, dict.fromkeys(sides)))
        raise ValueError(f"attention = [{missing[0]}] names no map of this network; there are {listed}")
    last = {side: i for i, side in enumerate(sides)}
    layers: list[nn.Module] = []
    for i, (block, side) in enumerate(zip(blocks, sides, strict=True)):
        layers.append(block)
        if side in attention and last[side] == i:
            layers.append(SelfAttention(width))
    return nn.Sequential(*layers)


class ClassNorm(nn.BatchNorm2d):
    """Batch normalisation; if there are classes, with a scale and a shift for each (de Vries et al. 2017)."""

    def __init__(self, width: int, classes: int | None = None) -> None:
        super().__init__(width, affine=classes is None)
        self.scales = None if classes is None else nn.Parameter(torch.ones(classes, width))
        self.shifts = None if classes is None else nn.Parameter(torch.zeros(classes, width))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        if self.scales is None or self.shifts is None:
            return x
        assert label is not None, "a conditional generator is told the class of each row"
        scale, shift = (F.embedding(label, table)[:, :, None, None] for table in (self.scales, self.shifts))
        return scale * x + shift


class DoublingBlock(nn.Module):
    """(B, width, H, W) -> (B, width, 2 H, 2 W), nearest neighbours."""

    def __init__(self, width: int, classes: int | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = ClassNorm(width, classes), ClassNorm(width, classes)
        self.conv1, self.conv2 = (conv(width, width, 3, gain=sqrt(2)) for _ in range(2))
        self.shortcut = conv(width, width, 1)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, label)), scale_factor=2))
        h = self.conv2(F.relu(self.norm2(h, label)))
        # Published the other way round; a 1x1 convolution commutes with doubling and costs a quarter before.
        out: Tensor = h + F.interpolate(self.shortcut(x), scale_factor=2)
        return out


class FirstBlock(nn.Module):
    """(B, channels, H, W) -> (B, width, H / 2, W / 2), without activation before the first convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, width, 3, gain=sqrt(2))
        self.conv2 = conv(width, width, 3, gain=sqrt(2))
        self.shortcut = conv(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x)))
        out: Tensor = F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return out


class JudgingBlock(nn.Module):
    """(B, width, H, W) -> the same, or with half the sides and a convolution in the shortcut."""

    def __init__(self, width: int, halve: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = (conv(width, width, 3, gain=sqrt(2)) for _ in range(2))
        self.shortcut = conv(width, width, 1) if halve else nn.Identity()
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(F.relu(x))))
        out: Tensor = self.pool(h) + self.shortcut(self.pool(x))
        return out
