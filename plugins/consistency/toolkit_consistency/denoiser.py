"""A denoiser around any other that leaves what is least noisy as it is."""

from collections.abc import Sequence
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Continuous, Denoiser, Prediction


@final
class ConsistencyPreconditioned(Denoiser):
    """f(x, sigma) = c_skip x + c_out F(c_in x, c_noise) around a network F (Song et al. 2023, appendix C).

        c_skip = d^2 / ((sigma - m)^2 + d^2),      c_out = d (sigma - m) / sqrt(sigma^2 + d^2),
        c_in = 1 / sqrt(sigma^2 + d^2),            c_noise = ln(sigma) / 4,      d = sigma_data

    m is the lowest noise level of the path's grid, and f(x, m) = x exactly: the boundary condition without
    which a constant would be consistent too. F is what `network` computes, whatever it calls that: its
    `prediction` has no effect. Keys of weights are those of `edm_preconditioned`, from which distillation
    starts.

    Args:
        network: F; it gets c_noise as its time, so that a UNet wants time_scale = 1.
        sigma_data: the standard deviation of the data.

    Raises:
        ValueError: for a path whose time is not sigma.
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
        with torch.device("cpu"):  # also while networks are built on the meta device
            self.sigma_min = schedule.grid(2, None)[-2]
        self.network, self.sigma_data, self._schedule = network, sigma_data, schedule
        self.conditional, self.null_class = network.conditional, network.null_class

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
        above, total = sigma - self.sigma_min, (sigma.square() + data**2).sqrt()
        inner: Prediction = self.network(x_t / total, t.log() / 4, label=label, latent=latent)
        skip, out = data**2 / (above.square() + data**2), data * above / total
        return Prediction(self._schedule, x_t, t, x0=skip * x_t + out * inner.of(inner.target))
