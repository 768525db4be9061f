"""The blocks of the published generator: NCSN++ (Song et al. 2021) with z in its normalisations.

Each takes one embedding (B, time_width + style_width), the time's before z's, and divides it itself: the
`forward` of UNet2DModel hands all blocks the same tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ddgan.fir import Blur, Double
from toolkit_ddgan.weights import NEARLY_ZERO, initialise, scale


@dataclass(frozen=True)
class Common:
    """What all blocks of a generator share: the widths of the embedding's two parts, and dropout."""

    time_width: int
    style_width: int
    dropout: float


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6, affine=affine)


class StyledNorm(nn.Module):
    """gamma(w) * GroupNorm(h) + beta(w): z decides mean and variance of every channel (AdaGN)."""

    def __init__(self, channels: int, style_width: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, affine=False)
        self.style = nn.Linear(style_width, 2 * channels)

    def forward(self, h: Tensor, style: Tensor) -> Tensor:
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, dim=1)
        normed: Tensor = gamma * self.norm(h) + beta
        return normed


class ResidualBlock(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, ...), resampled in both branches if `resample` is given."""

    def __init__(
        self, in_channels: int, out_channels: int, common: Common, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.split = [common.time_width, common.style_width]
        self.norm1 = StyledNorm(in_channels, common.style_width)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.time = nn.Linear(common.time_width, out_channels)
        self.norm2 = StyledNorm(out_channels, common.style_width)
        self.dropout = nn.Dropout(common.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.resample = resample or nn.Identity()
        # The published block has this convolution also where it resamples an equal number of channels.
        same = in_channels == out_channels and resample is None
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)
        initialise(self)
        scale(self.conv2, NEARLY_ZERO)
        for norm in (self.norm1, self.norm2):
            scale(norm.style, fan="out")
            nn.init.ones_(norm.style.bias[: norm.norm.num_channels])  # gamma begins around 1, beta around 0

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        time, style = embedding.split(self.split, dim=1)
        h = self.resample(F.silu(self.norm1(x, style)))
        h = self.conv1(h) + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h, style))))
        out: Tensor = (h + self.shortcut(self.resample(x))) / sqrt(2)
        return out


class PyramidConv(nn.Module):
    """Halves the input pyramid by blurring it and a strided convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.blur = Blur(stride=1, padding=2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(self.blur(x))
        return halved


def attention(channels: int) -> Attention:
    """Self-attention over positions with one head, residual, divided by sqrt(2)."""
    block = Attention(
        channels,
        heads=1,
        dim_head=channels,
        norm_num_groups=min(channels // 4, 32),
        eps=1e-6,
        bias=True,
        residual_connection=True,
        rescale_output_factor=sqrt(2),
    )
    initialise(block)
    for projection in (block.to_q, block.to_k, block.to_v):
        scale(projection, sqrt(0.1))
    scale(block.to_out[0], NEARLY_ZERO)
    return block


class LastDownBlock(nn.Module):
    """`layers` residual blocks, each followed by attention if the level has it."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, attend: bool, common: Common
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(ResidualBlock(a, b, common) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(
            attention(out_channels) if attend else nn.Identity() for _ in range(layers)
        )

    def forward(self, hidden_states: Tensor, temb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        states: tuple[Tensor, ...] = ()
        for resnet, attend in zip(self.resnets, self.attentions, strict=True):
            hidden_states = attend(resnet(hidden_states, temb))
            states += (hidden_states,)
        return hidden_states, states


class DownBlock(nn.Module):
    """The same, then a residual block that halves the sides; to its result comes the input pyramid.

    UNet2DModel hands the pyramid, which starts as x_t, to every down block that has a `skip_conv`, and takes
    it back. As published, the sum goes on as both the features and the pyramid.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pyramid_channels: int,
        layers: int,
        attend: bool,
        common: Common,
    ) -> None:
        super().__init__()
        self.level = LastDownBlock(in_channels, out_channels, layers, attend, common)
        self.downsample = ResidualBlock(out_channels, out_channels, common, Blur(stride=2, padding=1))
        self.skip_conv = PyramidConv(pyramid_channels, out_channels)

    def forward(
        self, hidden_states: Tensor, temb: Tensor, skip_sample: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        hidden_states, states = self.level(hidden_states, temb)
        h = (self.skip_conv(skip_sample) + self.downsample(hidden_states, temb)) / sqrt(2)
        return h, (*states, h), h


class MidBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, common: Common) -> None:
        super().__init__()
        self.before = ResidualBlock(channels, channels, common)
        self.attention = attention(channels)
        self.after = ResidualBlock(channels, channels, common)

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        h: Tensor = self.after(self.attention(self.before(hidden_states, temb)), temb)
        return h


class UpBlock(nn.Module):
    """A residual block for each state that the way down left, attention, and one that doubles the sides.

    UNet2DModel reads from the length of `resnets` how many states to hand over.

    Args:
        in_channels: from the block before.
        out_channels: of all residual blocks here.
        state_channels: of the states, in the order in which they are used.
        attend: whether there is attention.
        upsample: whether the sides double.
        common: what all blocks share.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        state_channels: Sequence[int],
        attend: bool,
        upsample: bool,
        common: Common,
    ) -> None:
        super().__init__()
        before = [in_channels] + [out_channels] * (len(state_channels) - 1)
        self.resnets = nn.ModuleList(
            ResidualBlock(h + state, out_channels, common)
            for h, state in zip(before, state_channels, strict=True)
        )
        self.attention = attention(out_channels) if attend else nn.Identity()
        self.upsample = ResidualBlock(out_channels, out_channels, common, Double()) if upsample else None

    def forward(self, hidden_states: Tensor, states: tuple[Tensor, ...], temb: Tensor) -> Tensor:
        for resnet, state in zip(self.resnets, reversed(states), strict=True):
            hidden_states = resnet(torch.cat([hidden_states, state], dim=1), temb)
        hidden_states = self.attention(hidden_states)
        return hidden_states if self.upsample is None else self.upsample(hidden_states, temb)
