"""A sampler with two errors, kept to repeat results that were made with them."""

from typing import Unpack, final

import torch
from torch import Tensor

from toolkit import Denoiser, Draws, NoiseSchedule, Prediction, Sampler, below, calls, randn


@final
class ClampedAncestral(Sampler):
    """Ancestral sampling with the errors of the report's sampler; `ancestral` is the correct one.

    x_s itself, and not the estimate of x_0, is clamped to [-1, 1] in every step, so that no x_s has the
    distribution that the network was trained on; and the step from t = 1 adds no noise, as that from t = 0
    must. The noise's variance is beta_t.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule, self.timesteps = schedule, schedule.timesteps

    def sample(self, denoiser: Denoiser, x: Tensor, start: int, **draws: Unpack[Draws]) -> Tensor:
        generators, table = draws.get("generators"), self.schedule
        coef1: list[float] = table.posterior_mean_coef1.tolist()
        coef2: list[float] = table.posterior_mean_coef2.tolist()
        std: list[float] = table.betas.sqrt().tolist()

        def step(prediction: Prediction, x_t: Tensor, t: int) -> Tensor:
            mean = coef1[t] * prediction.x0 + coef2[t] * x_t
            noise = randn(x_t.shape, generators, x_t.device) if t > 1 else torch.zeros_like(x_t)
            return (mean + std[t] * noise).clamp(-1, 1)

        return calls(denoiser, x, below(self.timesteps, start), step, **draws)
