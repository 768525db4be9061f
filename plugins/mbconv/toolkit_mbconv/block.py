"""The inverted residual block of MobileNetV2, with squeeze and excitation, GroupNorm, SiLU and time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Each channel times a gate in (0, 1) that the means of all channels decide (Hu et al. 2018, eq. 2-4)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, squeezed, bias=False)
        self.excite = nn.Linear(squeezed, channels, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(h.mean((2, 3))))))
        return h * gate[:, :, None, None]


class MBConv(nn.Module):
    """x + project(excite(depthwise(expand(x) + time))): wide inside, and cheap, as it is depthwise there.

    MobileNetV2's block (Sandler et al. 2018) with GroupNorm and SiLU, and with both before the convolutions,
    where it has BatchNorm and ReLU6 after them. Takes the place of diffusers' ResnetBlock2D.

    Args:
        in_channels: those of x, with what a skip connection adds.
        out_channels: if they differ, the shortcut is a 1x1 convolution.
        time_width: length of the time embedding.
        expansion: channels inside, in multiples of `in_channels`.
        se: width of squeeze and excitation, as a fraction of `in_channels` (not of those inside).
        groups: of every GroupNorm.
        eps: of every GroupNorm.
        dropout: before the last convolution.

    Raises:
        ValueError: if `in_channels` is not a multiple of `groups`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_width: int,
        *,
        expansion: int,
        se: float,
        groups: int,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        inside = expansion * in_channels
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        # Named as in ResnetBlock2D, whose conv1 is 3x3, so that a plain UNet2DModel refuses these weights by
        # their shape. Weights that it only misses it would leave random, with a warning.
        self.conv1 = nn.Conv2d(in_channels, inside, 1, bias=False)
        self.time = nn.Linear(time_width, inside)
        self.norm2 = nn.GroupNorm(groups, inside, eps)
        self.depthwise = nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False)
        self.norm3 = nn.GroupNorm(groups, inside, eps)
        self.excite = SqueezeExcite(inside, max(1, int(se * in_channels)))
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Conv2d(inside, out_channels, 1, bias=False)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """From x (B, in_channels, H, W) and the time embedding (B, time_width)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.depthwise(F.silu(self.norm2(h)))
        h = self.excite(F.silu(self.norm3(h)))
        out: Tensor = self.project(self.dropout(h)) + self.shortcut(x)
        return out
