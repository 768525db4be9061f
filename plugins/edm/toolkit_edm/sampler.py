"""Heun's method with churn."""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from toolkit import Continuous, Denoise, Heun, Noise, Rate, Sampler, SamplerStep

MOST = math.sqrt(2) - 1  # no more noise is added than there is (Karras et al. 2022, algorithm 2)


class ChurnedHeun(Sampler):
    """Heun's method with a little noise added before each step (Karras et al. 2022, algorithm 2).

        t' = (1 + churn) t,      x' = x + s_noise sqrt(t'^2 - t^2) noise,      then Heun's step from t' to s

    With churn = 0 it is `heun`, bit for bit. As many network calls: 2 n - 1 for n steps.

    Args:
        churn: gamma, by which the noise level is raised: the paper's S_churn / n, at most sqrt(2) - 1.
        s_min: the lowest noise level that is raised.
        s_max: the highest; None sets no limit.
        s_noise: the standard deviation of what is added; a little above 1 replaces what networks remove too
            much.
    """

    def __init__(
        self,
        schedule: Continuous,
        churn: Annotated[float, Field(ge=0, le=MOST)] = 0.0,
        s_min: Rate = 0.0,
        s_max: Annotated[float, Field(gt=0)] | None = None,
        s_noise: Annotated[float, Field(gt=0)] = 1.0,
    ) -> None:
        if not schedule.time_is_sigma:
            raise ValueError('churn is for a schedule whose time is sigma, such as "edm"')
        self.schedule, self.churn, self.s_noise = schedule, churn, s_noise
        self.s_min, self.s_max = s_min, math.inf if s_max is None else s_max
        if self.s_min > self.s_max:
            raise ValueError(f"s_min {s_min:g} must not be above s_max {s_max:g}")

    def stepper(self) -> SamplerStep:
        heun = Heun(self.schedule).stepper()

        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            if self.churn and self.s_min <= t <= self.s_max:
                raised = (1 + self.churn) * t
                x_t, t = x_t + self.s_noise * math.sqrt(raised**2 - t**2) * noise(), raised
            return heun(denoise, x_t, t, s, noise)

        return step
