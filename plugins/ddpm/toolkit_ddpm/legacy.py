"""A sampler with two errors, kept to repeat results that were made with them."""

from typing import final

from torch import Tensor

from toolkit import Chain, Denoise, Noise, Sampler, SamplerStep


@final
class ClampedAncestral(Sampler):
    """Ancestral sampling with the errors of the report's sampler; `ancestral` is the correct one.

    x_s itself, and not the estimate of x_0, is clamped to [-1, 1] in every step, so that no x_s has the
    distribution that the network was trained on; and the step from t = 1 adds no noise, as that from t = 0
    must. The noise's variance is beta_t.
    """

    def __init__(self, schedule: Chain) -> None:
        self.schedule = schedule

    def stepper(self) -> SamplerStep:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            mean, _ = self.schedule.posterior(denoise(x_t, t).x0, x_t, s, t)
            _, std = self.schedule.transition(s, t, x_t)
            return (mean + std * noise() if t > 1 else mean).clamp(-1, 1)

        return step
