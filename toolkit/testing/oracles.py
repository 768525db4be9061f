"""Denoisers that are known in closed form."""

import torch
from torch import Tensor, nn

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.prediction import Prediction
from toolkit.diffusion.schedule import NoiseSchedule

MEAN = torch.tensor([0.3, -0.2])
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]])  # wide enough that a walk's steps are small against it


class Gaussian(Denoiser):
    """The exact mean of p(x_0 | x_t) for points x_0 (B, 2) ~ N(MEAN, COVARIANCE), C = COVARIANCE:

        MEAN + alpha C (alpha^2 C + sigma^2 I)^-1 (x_t - alpha MEAN)

    As a flow map it predicts the x_0 of the straight line from x_t to the exact x_s of the probability flow.
    """

    def __init__(self, schedule: NoiseSchedule, *, flow_map: bool = False) -> None:
        super().__init__()
        self.schedule, self._flow_map = schedule, flow_map
        self.seen: list[float] = []  # the time of every call
        self._variances, self._axes = torch.linalg.eigh(COVARIANCE)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append(float(t[0]))
        alpha, sigma = self.schedule.at(t, x_t)
        along = (x_t - alpha * MEAN) @ self._axes
        total = alpha**2 * self._variances + sigma**2
        if not self._flow_map or s is None:
            gain = alpha * self._variances / total
            return Prediction(self.schedule, x_t, t, x0=MEAN + (gain * along) @ self._axes.T)
        alpha_s, sigma_s = self.schedule.at(s, x_t)
        scale = ((alpha_s**2 * self._variances + sigma_s**2) / total).sqrt()
        x_s = alpha_s * MEAN + (scale * along) @ self._axes.T
        # The x_0 of the line x_s = alpha_s x_0 + sigma_s noise that also passes through x_t.
        x0 = (sigma * x_s - sigma_s * x_t) / (alpha_s * sigma - alpha * sigma_s)
        return Prediction(self.schedule, x_t, t, x0=x0)


class Shrinking(Denoiser):
    """Predicts noise (on a chain, else x_0) proportional to x_t, and a variance, by two parameters."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.scale, self.tilt = nn.Parameter(torch.tensor(0.6)), nn.Parameter(torch.tensor(0.2))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        fraction = torch.sigmoid(self.tilt + 0.1 * x_t)
        # Where there is nothing but noise, an estimate of it would say nothing of x_0.
        name = "noise" if self.schedule.discrete else "x0"
        return Prediction(self.schedule, x_t, t, variance_fraction=fraction, **{name: self.scale * x_t})
