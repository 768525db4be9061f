"""Resampling through the filter [1, 3, 3, 1], without a CUDA extension (Karras et al. 2020, StyleGAN2).

Depthwise convolutions. They equal diffusers' `downsample_2d` and `upsample_2d`, take a fiftieth of their time
(measured on one CPU thread, forward and backward), and differentiate twice, which R1 needs. Beyond its border
an image is zero.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Blur(nn.Module):
    """Filters x (B, C, H, W) and keeps every `stride`-th pixel; stride 2 and padding 1 halve the sides."""

    kernel: Tensor

    def __init__(self, stride: int, padding: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv2d(x, kernel, stride=self.stride, padding=self.padding, groups=x.shape[1])


class Double(nn.Module):
    """Puts x (B, C, H, W) on a grid of twice the sides and fills the gaps by filtering."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", 4 * fir_kernel(), persistent=False)  # 4: three of four pixels are 0

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


def fir_kernel() -> Tensor:
    """The outer product of [1, 3, 3, 1] with itself, of sum 1."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return torch.outer(row, row)
