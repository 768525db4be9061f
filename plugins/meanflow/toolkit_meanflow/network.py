"""A flow map of points."""

import math
from typing import final

import torch
from torch import Tensor, nn

from toolkit import Continuous, Denoiser, Positive, Prediction

FREQUENCIES = 4  # of each time: pi / 2, pi, 2 pi, 4 pi, so that derivatives in time stay moderate


@final
class FlowMapMLP(Denoiser):
    """Residual perceptrons on x_t, t and t - s that predict the flow; for points, not for images.

    Its first output is exactly 0.

    Args:
        width: of every layer.
        layers: residual blocks of two linear layers.
    """

    flow_map = True
    frequencies: Tensor

    def __init__(
        self,
        schedule: Continuous,
        sample_shape: tuple[int, ...],
        width: Positive = 128,
        layers: Positive = 3,
    ) -> None:
        super().__init__()
        self._schedule, size = schedule, math.prod(sample_shape)
        scale = schedule.noisiest - schedule.clean
        frequencies = math.pi / 2 / scale * 2.0 ** torch.arange(FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.enter = nn.Linear(size, width)
        self.times = nn.Sequential(nn.Linear(4 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.leave = nn.Linear(width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        times = torch.stack([t, t - (t if s is None else s)], 1)[..., None] * self.frequencies
        when = self.times(torch.cat([times.sin(), times.cos()], 1).flatten(1))
        h = self.enter(x_t.flatten(1))
        for block in self.blocks:
            h = h + block(h + when)
        return Prediction(self._schedule, x_t, t, flow=self.leave(h).float().view(x_t.shape))
