"""Leaving a chain before its end."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from toolkit import Denoiser, NoiseSchedule, Prediction


@final
class Handover(Denoiser):
    """A denoiser that is called at timesteps from `last` up, and below repeats its last estimate of x_0.

    Attributes:
        x0: that estimate (n, ...), for whoever sampled.
    """

    def __init__(self, denoiser: Denoiser, schedule: NoiseSchedule, last: int) -> None:
        super().__init__()
        self.denoiser, self._schedule, self._last = denoiser, schedule, last
        self.conditional, self.null_class = denoiser.conditional, denoiser.null_class
        self.respaceable, self.flow_map = denoiser.respaceable, denoiser.flow_map
        self.x0 = torch.empty(0)

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        return self.denoiser.latent(n, generators)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        if int(t[0]) < self._last:
            return Prediction(self._schedule, x_t, t, x0=self.x0)
        prediction: Prediction = self.denoiser(x_t, t, s=s, label=label, latent=latent)
        self.x0 = prediction.x0
        return prediction
