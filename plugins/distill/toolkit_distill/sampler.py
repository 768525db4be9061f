"""How students sample."""

from typing import final

from torch import Tensor

from toolkit import Denoise, Noise, NoiseSchedule, Sampler, SamplerStep, Steps
from toolkit_distill.times import student_times


@final
class FewStep(Sampler):
    """Calls a student at the times that it was trained for, with fresh noise between two calls.

        x = G(x_t),   x_s = alpha_s x + sigma_s noise   (Yin et al. 2024b, section 4.4)

    The walk begins with x_t ~ N(0, prior_std^2 I), also at a time below the noisiest.

    Args:
        times: at which the student is called, descending, as in the objective; by default the noisiest alone.

    Raises:
        ValueError: unless they descend and are on the path.
    """

    def __init__(self, schedule: NoiseSchedule, times: tuple[float, ...] | None = None) -> None:
        self.schedule, self.times = schedule, student_times(schedule, times)

    def grid(self, schedule: NoiseSchedule, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        if n not in (None, len(self.times)) or spacing is not None:
            raise ValueError(
                f"few_step calls a student at its own times, {list(self.times)}: leave out "
                "num_inference_steps and spacing"
            )
        return (*self.times, schedule.clean)

    def stepper(self) -> SamplerStep:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            x = denoise(x_t, t, self.schedule.clean).x0
            return x if s == self.schedule.clean else self.schedule.diffuse(x, s, noise())

        return step
