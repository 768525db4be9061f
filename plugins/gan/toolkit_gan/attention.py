"""Self-attention between the positions of a map (Zhang et al. 2019, SAGAN)."""

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """x + gamma v(sum_j beta_ij h(x_j)), beta_ij = softmax_j f(x_j) . g(x_i).

    This is the paper's: f, g and h have an eighth of the channels. (In its TensorFlow code h has half of
    them, and f and h are pooled to half the side.) gamma begins at 0, so that a network begins without it.
    The sum is written out because fused kernels cannot be differentiated twice, as R1 and gradient penalties
    do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.f, self.g, self.h = (nn.Conv2d(channels, inner, kernel_size=1) for _ in range(3))
        self.v = nn.Conv2d(inner, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(()))
        for conv in (self.f, self.g, self.h, self.v):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        f, g, h = (conv(x).flatten(2) for conv in (self.f, self.g, self.h))  # (B, C / 8, H W)
        beta = torch.einsum("bcj,bci->bij", f, g).softmax(dim=2)
        o = torch.einsum("bij,bcj->bci", beta, h).unflatten(2, x.shape[2:])
        out: Tensor = x + self.gamma * self.v(o)
        return out
