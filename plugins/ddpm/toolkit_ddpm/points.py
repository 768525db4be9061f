"""A denoiser of points."""

from itertools import pairwise
from math import prod
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit import Denoiser, NoiseSchedule, Prediction, refuse_target

Count = Annotated[int, Field(ge=1)]
TIME_WIDTH = 16
SLOPE = 0.2  # of the leaky ReLUs


@final
class MLPDenoiser(Denoiser):
    """Fully connected layers on x_t and sinusoids of t that predict the noise; for points, not for images.

    Args:
        width: of each hidden layer.
        layers: number of hidden layers.
    """

    def __init__(
        self, schedule: NoiseSchedule, sample_shape: tuple[int, ...], width: Count = 128, layers: Count = 3
    ) -> None:
        super().__init__()
        from diffusers.models.embeddings import Timesteps  # takes seconds to import

        refuse_target(schedule, "noise")
        self._schedule = schedule
        self.time = Timesteps(TIME_WIDTH, flip_sin_to_cos=False, downscale_freq_shift=1)
        size = prod(sample_shape)
        modules: list[nn.Module] = []
        for into, out in pairwise([size + TIME_WIDTH, *[width] * layers, size]):
            modules += [nn.Linear(into, out), nn.LeakyReLU(SLOPE)]
        self.net = nn.Sequential(*modules[:-1])

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        noise = self.net(torch.cat([x_t.flatten(1), self.time(t)], dim=1)).float()
        return Prediction(self._schedule, x_t, t, noise=noise.view_as(x_t))
