"""The samplers that come with the toolkit, each the formula of its paper."""

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from toolkit.diffusion.continuous import Continuous
from toolkit.diffusion.prediction import Prediction
from toolkit.diffusion.sampler import Denoise, Noise, Sampler, Step
from toolkit.diffusion.schedule import NoiseSchedule, Steps
from toolkit.registry.signature import Rate


class Ancestral(Sampler):
    """Draws x_s ~ p(x_s | x_t) step by step (Ho et al. 2020, algorithm 2).

    With a denoiser that draws x_0 instead of estimating it, this is the sampling of Xiao et al. (2022).

    Args:
        variance: "fixed_small" is the posterior's, "fixed_large" is beta (Ho et al. 2020). A learned variance
            takes precedence.
        clip: clip the estimate of x_0 to [-1, 1] in every step.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        variance: Literal["fixed_small", "fixed_large"] = "fixed_small",
        clip: bool = False,
    ) -> None:
        self.schedule, self.variance, self.clip = schedule, variance, clip

    def stepper(self) -> Step:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            prediction = denoise(x_t, t)
            x0 = prediction.x0.clamp(-1, 1) if self.clip else prediction.x0
            if s == self.schedule.clean:
                return x0  # the posterior's mean is x_0 there, and its variance 0
            mean, small = self.schedule.posterior(x0, x_t, s, t)
            _, large = self.schedule.transition(s, t, x_t)
            if prediction.variance_fraction is None:
                return mean + (small if self.variance == "fixed_small" else large) * noise()
            log_small, log_large = 2 * math.log(small), 2 * math.log(large)
            fraction = prediction.variance_fraction  # Nichol & Dhariwal (2021), eq. 15
            log_variance = fraction * log_large + (1 - fraction) * log_small
            return mean + (log_variance / 2).exp() * noise()

        return step


class DDIM(Sampler):
    """Follows the deterministic path with the same marginals, or with eta > 0 a noisy one (Song et al. 2021).

        x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) noise + std z,   std = eta std of the posterior   (eq. 12)

    Args:
        eta: 0 adds no noise; 1 adds as much as ancestral sampling with fixed_small.
        clip: clip the estimate of x_0 to [-1, 1] in every step, and the noise estimate to fit.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        eta: Annotated[float, Field(ge=0, le=1)] = 0.0,
        clip: bool = False,
    ) -> None:
        self.schedule, self.eta, self.clip = schedule, eta, clip

    def stepper(self) -> Step:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            prediction = denoise(x_t, t)
            if self.clip:
                prediction = prediction.clipped()
            alpha, sigma = self.schedule.at(s, x_t)
            _, posterior_std = self.schedule.posterior(prediction.x0, x_t, s, t)
            std = self.eta * posterior_std
            x_s = alpha * prediction.x0 + max(0.0, sigma**2 - std**2) ** 0.5 * prediction.noise
            return x_s + std * noise() if std else x_s

        return step


class Euler(Sampler):
    """A straight step along the flow: x_s = x_t + (s - t) dx/dt. On rectified flow it is DDIM."""

    def __init__(self, schedule: Continuous) -> None:
        self.schedule = schedule

    def stepper(self) -> Step:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            return x_t + (s - t) * denoise(x_t, t, t).flow

        return step


class Heun(Sampler):
    """Euler's step, then the mean of the flows at both its ends (Karras et al. 2022, algorithm 1).

    Two network calls a step, but one for the last: 2 n - 1 for n steps.
    """

    def __init__(self, schedule: Continuous) -> None:
        self.schedule = schedule

    def stepper(self) -> Step:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            flow = denoise(x_t, t, t).flow
            x_s = x_t + (s - t) * flow
            if s == self.schedule.clean:
                return x_s
            return x_t + (s - t) * (flow + denoise(x_s, s, s).flow) / 2

        return step


class DPMSolver(Sampler):
    """DPM-Solver++(2M): second order, with x_0 extrapolated linearly in lambda = log(alpha / sigma).

        x_s = sigma_s / sigma_t x_t - alpha_s (exp(-h) - 1) D,   h = lambda_s - lambda_t,
        D = x_0 + (x_0 - x_0') h / (2 h'),   x_0', h' of the step before   (Lu et al. 2022, algorithm 2)

    Args:
        clip: clip the estimate of x_0 to [-1, 1] in every step.
    """

    def __init__(self, schedule: NoiseSchedule, clip: bool = False) -> None:
        self.schedule, self.clip = schedule, clip

    def _log_ratio(self, t: float, like: Tensor) -> float:
        alpha, sigma = self.schedule.at(t, like)
        return math.log(alpha / sigma) if alpha else -math.inf

    def stepper(self) -> Step:
        before: tuple[Tensor, float] | None = None  # the last step's x_0 and h

        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            nonlocal before
            x0 = denoise(x_t, t, t).x0
            x0 = x0.clamp(-1, 1) if self.clip else x0
            if s == self.schedule.clean:
                return x0
            h = self._log_ratio(s, x_t) - self._log_ratio(t, x_t)
            mean = x0
            if before is not None and math.isfinite(before[1]):
                mean = x0 + (x0 - before[0]) * h / (2 * before[1])
            before = x0, h
            (alpha_s, sigma_s), (_, sigma_t) = self.schedule.at(s, x_t), self.schedule.at(t, x_t)
            return sigma_s / sigma_t * x_t - alpha_s * math.expm1(-h) * mean

        return step


class Consistency(Sampler):
    """Jumps to x_0, then back to the next time with fresh noise: x_s = alpha_s x_0 + sigma_s z.

    Multistep sampling of consistency models (Song et al. 2023, algorithm 1), for denoisers that reach x_0 in
    one step. One network call a step.

    Args:
        intermediate_times: of the calls after the first, descending: n calls take the first n - 1. By default
            all times are the grid's, whose last call is of little use on EDM's path: at sigma_min.

    Raises:
        ValueError: unless they lie on the path, below the noisiest time and above the clean one.
    """

    def __init__(self, schedule: NoiseSchedule, intermediate_times: list[Rate] | None = None) -> None:
        self.schedule, self.intermediate_times = schedule, intermediate_times
        ends = [schedule.noisiest, *(intermediate_times or ()), schedule.clean]
        whole = all(float(time).is_integer() for time in ends)
        if any(t <= s for t, s in pairwise(ends)) or (schedule.discrete and not whole):
            kind = "whole numbers" if schedule.discrete else "numbers"
            raise ValueError(
                f"intermediate_times must be descending {kind} between the noisiest time "
                f"{schedule.noisiest:g} and the clean one {schedule.clean:g}, not {intermediate_times}"
            )

    def grid(self, schedule: NoiseSchedule, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        between = self.intermediate_times
        if between is None:
            return schedule.grid(n, spacing)
        n = len(between) + 1 if n is None else n
        if spacing is not None:
            raise ValueError("intermediate_times say where the calls are: leave spacing out")
        if not isinstance(n, int) or n > len(between) + 1:
            raise ValueError(
                f"num_inference_steps must be at most {len(between) + 1}, one more than intermediate_times "
                f"has, not {n}"
            )
        return (schedule.noisiest, *between[: n - 1], schedule.clean)

    def stepper(self) -> Step:
        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            prediction: Prediction = denoise(x_t, t, self.schedule.clean)
            return (
                prediction.x0
                if s == self.schedule.clean
                else self.schedule.diffuse(prediction.x0, s, noise())
            )

        return step
