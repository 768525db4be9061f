"""Denoisers of which everything is known."""

import torch
from torch import Tensor, nn

from toolkit.denoiser import Denoiser, Prediction
from toolkit.schedule import NoiseSchedule

MEAN = torch.tensor([0.3, -0.2])
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]])  # wide enough that the chain's steps are small against it


class Gaussian(Denoiser):
    """The exact mean of p(x_0 | x_t) for points x_0 ~ N(MEAN, COVARIANCE).

    With s = sqrt(abar_t) and r^2 = 1 - abar_t it is MEAN + s C (s^2 C + r^2 I)^-1 (x_t - s MEAN).
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.seen: list[int] = []  # the timestep of every call
        self._variances, self._axes = torch.linalg.eigh(COVARIANCE)

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Prediction:
        self.seen.append(int(t[0]))
        s, r = self.schedule.signal(t, x_t), self.schedule.sigma(t, x_t)
        along = (x_t - s * MEAN) @ self._axes
        gain = s * self._variances / (s**2 * self._variances + r**2)
        return Prediction(self.schedule, x_t, t, x0=MEAN + (gain * along) @ self._axes.T)


class Shrinking(Denoiser):
    """Noise in proportion to x_t and a variance between its bounds: two parameters, row by row."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.scale, self.tilt = nn.Parameter(torch.tensor(0.6)), nn.Parameter(torch.tensor(0.2))

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Prediction:
        fraction = torch.sigmoid(self.tilt + 0.1 * x_t)
        return Prediction(self.schedule, x_t, t, noise=self.scale * x_t, variance_fraction=fraction)
