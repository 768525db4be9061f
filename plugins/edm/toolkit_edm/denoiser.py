"""A denoiser around any other, which then sees and computes numbers of unit variance at every noise level."""

from collections.abc import Sequence
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Continuous, Denoiser, Prediction


@final
class Preconditioned(Denoiser):
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise) around a network F (Karras et al. 2022, table 1).

        c_skip = d^2 / (sigma^2 + d^2),      c_out = sigma d / sqrt(sigma^2 + d^2),
        c_in = 1 / sqrt(sigma^2 + d^2),      c_noise = ln(sigma) / 4,      d = sigma_data

    F is what `network` computes, whatever it calls that: its `prediction` has no effect.

    Args:
        network: F; it gets c_noise as its time, so that a UNet wants time_scale = 1.
        sigma_data: the standard deviation of the data.
    """

    def __init__(
        self,
        schedule: Continuous,
        network: Denoiser,
        sigma_data: Annotated[float, Field(gt=0)] = 0.5,
    ) -> None:
        super().__init__()
        if not schedule.time_is_sigma:
            raise ValueError('this preconditioning is for a schedule whose time is sigma, such as "edm"')
        self.network, self.sigma_data, self._schedule = network, sigma_data, schedule
        self.conditional, self.null_class = network.conditional, network.null_class
        self.respaceable = network.respaceable

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        return self.network.latent(n, generators)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        sigma, data = t.view(-1, *[1] * (x_t.ndim - 1)), self.sigma_data
        total = (sigma.square() + data**2).sqrt()
        inner: Prediction = self.network(x_t / total, t.log() / 4, label=label, latent=latent)
        x0 = (data / total).square() * x_t + sigma * data / total * inner.of(inner.target)
        return Prediction(self._schedule, x_t, t, x0=x0, variance_fraction=inner.variance_fraction)
