"""The numbers of improved_ddpm_vectors.json and their inputs, and a denoiser that is exact on Gaussian data.

The vectors were derived in float64, and agree with the authors' code in float32.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit import Chain, Denoiser, NoiseSchedule, Prediction

SHAPE = (1, 3, 4, 4)


def vectors() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("improved_ddpm_vectors.json").read_text())


def image(name: str) -> Tensor:
    """One of the inputs: x0 in [-1, 1], the noise, or a half of what the network says (eps_out, v_out)."""
    if name == "x0":
        return torch.tensor(vectors()["vlb"]["u8"]).float().view(SHAPE) / 127.5 - 1
    return torch.tensor(vectors()["vlb"][name]).view(SHAPE)


def published() -> NoiseSchedule:
    """The chain of the vectors (Ho et al. 2020)."""
    return Chain(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


class Says(Denoiser):
    """Predicts this noise and, unless v is None, this variance."""

    def __init__(self, schedule: NoiseSchedule, noise: Tensor, v: Tensor | None) -> None:
        super().__init__()
        self.schedule, self.noise, self.v = schedule, noise, v

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        fraction = None if self.v is None else (self.v + 1) / 2
        return Prediction(self.schedule, x_t, t, noise=self.noise, variance_fraction=fraction)


class ExactForGaussians(Denoiser):
    """The mean of x_0 given x_t for data N(0, std^2), and the variance of x_s given x_t on its own chain."""

    def __init__(self, schedule: NoiseSchedule, std: float, *, learned: bool = True) -> None:
        super().__init__()
        self.schedule, self.std, self.learned = schedule, std, learned
        self.anything = torch.nn.Parameter(torch.zeros(()))  # so that it is on a device

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        signal_squared, data = self.schedule.at(t, x_t)[0] ** 2, self.std**2
        sigma_squared = self.schedule.at(t, x_t)[1] ** 2
        marginal = signal_squared * data + sigma_squared
        x0 = signal_squared.sqrt() * data / marginal * x_t
        if not self.learned:
            return Prediction(self.schedule, x_t, t, x0=x0)
        table, rows = self.schedule, t.cpu()
        first = rows == int(table.timesteps[0])
        posterior = table.posterior_variance[rows]
        variance = (
            posterior + table.posterior_mean_coef1[rows] ** 2 * (data * sigma_squared / marginal).flatten()
        )
        low, high = table.posterior_log_variance_clipped[rows], table.betas[rows].log()
        fraction = ((variance.log() - low) / (high - low)).float()
        assert bool(((fraction >= -1e-4) & (fraction <= 1 + 1e-4))[~first].all())
        return Prediction(
            self.schedule,
            x_t,
            t,
            x0=x0,
            variance_fraction=fraction.view(-1, *[1] * (x_t.ndim - 1)).expand_as(x_t),
        )
