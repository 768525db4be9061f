"""A denoiser of points."""

from itertools import pairwise
from math import prod
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit import TARGETS, Denoiser, NoiseSchedule, Prediction, Target, refuse_target

Count = Annotated[int, Field(ge=1)]
TIME_WIDTH = 16
SLOPE = 0.2  # of the leaky ReLUs


@final
class MLPDenoiser(Denoiser):
    """Fully connected layers on x_t and sinusoids of t; for points, not for images.

    Args:
        width: of each hidden layer.
        layers: number of hidden layers.
        prediction: what the network computes.
        time_scale: the sinusoids are of time_scale x t; by default 1 on a chain, 1000 on a continuous path.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        width: Count = 128,
        layers: Count = 3,
        prediction: Literal["epsilon", "sample", "v_prediction", "flow"] = "epsilon",
        time_scale: Annotated[float, Field(gt=0)] | None = None,
    ) -> None:
        super().__init__()
        from diffusers.models.embeddings import Timesteps  # takes seconds to import

        self._target: Target = TARGETS[prediction]
        refuse_target(schedule, self._target)
        self._schedule = schedule
        self._time_scale = time_scale or (1.0 if schedule.discrete else 1000.0)
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
        time = t if self._time_scale == 1 else t * self._time_scale
        out = self.net(torch.cat([x_t.flatten(1), self.time(time)], dim=1))
        return Prediction.from_output(self._schedule, x_t, t, out.view_as(x_t), self._target)
