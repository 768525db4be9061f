"""Samplers walk the reverse chain with a denoiser, whatever its parametrisation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict, Unpack

import torch
from pydantic import Field
from torch import Tensor

from toolkit.denoiser import Denoiser, Prediction
from toolkit.options import Positive
from toolkit.randomness import randn
from toolkit.schedule import NoiseSchedule, Spacing, kept_timesteps

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

Steps = Positive | list[Positive]


class Draws(TypedDict, total=False):
    """What a sampler may be given besides x; all of it is optional.

    Attributes:
        generators: one a row; row i draws from `generators[i]` alone. None draws from torch's own.
        label: (n,) int64, the classes to sample.
        latents: replaces what the denoiser would draw, one tensor (n, ...) a network call, in their order.
        progress: is told how many network calls are done.
    """

    generators: Sequence[torch.Generator] | None
    label: Tensor | None
    latents: Sequence[Tensor] | None
    progress: Callable[[int], None] | None


class Sampler(ABC):
    """Turns x at some timestep into images with a denoiser."""

    timesteps: Tensor  # the original indices at which the network is called, ascending

    @abstractmethod
    def sample(self, denoiser: Denoiser, x: Tensor, start: int, **draws: Unpack[Draws]) -> Tensor:
        """Images (n, ...) from x (n, ...), which lies at the largest of `timesteps` below `start`.

        One network call for each of `timesteps` below `start`; none gives x back. In [-1, 1] as far as the
        network's estimates are.
        """

    def scheduler(self) -> "DDPMScheduler | None":
        """The diffusers scheduler that samples alike, for pipelines that diffusers can open; None if none."""
        return None


def calls(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Sequence[int],
    step: Callable[[Prediction, Tensor, int], Tensor],
    **draws: Unpack[Draws],
) -> Tensor:
    """The loop that samplers share: predict at each of the (descending) timesteps and take a `step`.

    Raises:
        ValueError: if `latents` are not one a network call.
    """
    latents, generators = draws.get("latents"), draws.get("generators")
    label, progress = draws.get("label"), draws.get("progress")
    if latents is not None and len(latents) != len(timesteps):
        raise ValueError(f"{len(timesteps)} network calls need as many latents, got {len(latents)}")
    for done, t in enumerate(timesteps):
        latent = denoiser.latent(len(x), generators) if latents is None else latents[done]
        rows = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        x = step(denoiser(x, rows, label, latent), x, t)
        if progress is not None:
            progress(done + 1)
    return x


def below(timesteps: Tensor, start: int) -> list[int]:
    """The timesteps below `start`, descending: the network calls of a sampler."""
    return [t for t in reversed(timesteps.tolist()) if t < start]


def _respaced(schedule: NoiseSchedule, steps: Steps | None, spacing: Spacing) -> NoiseSchedule:
    if steps is None:
        return schedule
    return schedule.respace(kept_timesteps(schedule.num_train_timesteps, steps, spacing))


class Ancestral(Sampler):
    """Draws x_s ~ p(x_s | x_t) step by step (Ho et al. 2020, algorithm 2).

    With a denoiser that draws x_0 instead of estimating it, this is the sampling of Xiao et al. (2022).

    Args:
        num_inference_steps: network calls, or a list of those in each of as many sections of the chain; by
            default one for every timestep of the schedule.
        spacing: which timesteps are kept: "leading", "linspace" and "trailing" as diffusers has it, "strided"
            and "ddim" as Nichol & Dhariwal (2021).
        variance: fixed_small is the posterior's, fixed_large is beta (Ho et al. 2020). A learned variance
            takes precedence.
        clip: clip the estimate of x_0 to [-1, 1] in every step.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_inference_steps: Steps | None = None,
        spacing: Spacing = "leading",
        variance: Literal["fixed_small", "fixed_large"] = "fixed_small",
        clip: bool = False,
    ) -> None:
        self._whole, self._steps, self._spacing = schedule, num_inference_steps, spacing
        self.schedule = _respaced(schedule, num_inference_steps, spacing)
        self.variance, self.clip = variance, clip
        self.timesteps = self.schedule.timesteps

    def sample(self, denoiser: Denoiser, x: Tensor, start: int, **draws: Unpack[Draws]) -> Tensor:
        generators, table = draws.get("generators"), self.schedule
        coef1: list[float] = table.posterior_mean_coef1.tolist()
        coef2: list[float] = table.posterior_mean_coef2.tolist()
        small = self.variance == "fixed_small"
        std: list[float] = (table.posterior_variance if small else table.betas).sqrt().tolist()
        first = int(self.timesteps[0])

        def step(prediction: Prediction, x_t: Tensor, t: int) -> Tensor:
            x0 = prediction.x0.clamp(-1, 1) if self.clip else prediction.x0
            if t == first:
                return x0  # the posterior's mean is x_0 there, and its variance 0
            noise = randn(x_t.shape, generators, x_t.device)
            if prediction.variance_fraction is None:
                return coef1[t] * x0 + coef2[t] * x_t + std[t] * noise
            rows = torch.full((len(x_t),), t, device=x_t.device)
            log_variance = table.learned_log_variance(prediction.variance_fraction, rows)
            return coef1[t] * x0 + coef2[t] * x_t + (log_variance / 2).exp() * noise

        return calls(denoiser, x, below(self.timesteps, start), step, **draws)

    def scheduler(self) -> "DDPMScheduler | None":
        if len(self._whole.timesteps) != self._whole.num_train_timesteps:
            return None  # a chain with gaps has no betas that diffusers could be told
        if isinstance(self._steps, list) or self._spacing in ("strided", "ddim"):
            return None  # diffusers would visit other timesteps
        if self._spacing == "trailing" and self.variance == "fixed_large":
            return None  # diffusers would add noise to the last image, whose timestep is not 0
        config = {"variance_type": self.variance, "clip_sample": self.clip}
        return self._whole.to_scheduler(**config, timestep_spacing=self._spacing)


class DDIM(Sampler):
    """Follows the deterministic path of the same marginals, or with eta > 0 a noisy one (Song et al. 2021).

        x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) noise + sigma z       (eq. 12)

    Args:
        num_inference_steps: network calls, or a list of those in each of as many sections of the chain; by
            default one for every timestep of the schedule.
        spacing: which timesteps are kept: "leading", "linspace" and "trailing" as diffusers has it, "strided"
            and "ddim" as Nichol & Dhariwal (2021).
        eta: 0 adds no noise; 1 adds as much as ancestral sampling with fixed_small.
        clip: clip the estimate of x_0 to [-1, 1] in every step, and the noise estimate to fit.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_inference_steps: Steps | None = None,
        spacing: Spacing = "leading",
        eta: Annotated[float, Field(ge=0, le=1)] = 0.0,
        clip: bool = False,
    ) -> None:
        self.schedule, self.eta, self.clip = _respaced(schedule, num_inference_steps, spacing), eta, clip
        self.timesteps = self.schedule.timesteps

    def sample(self, denoiser: Denoiser, x: Tensor, start: int, **draws: Unpack[Draws]) -> Tensor:
        generators, table = draws.get("generators"), self.schedule
        abar: list[float] = table.alphas_cumprod.tolist()
        abar_prev: list[float] = table.alphas_cumprod_prev.tolist()
        std: list[float] = (self.eta * table.posterior_variance.sqrt()).tolist()

        def step(prediction: Prediction, x_t: Tensor, t: int) -> Tensor:
            x0, noise = prediction.x0, prediction.noise
            if self.clip:
                x0 = x0.clamp(-1, 1)
                noise = (x_t - sqrt(abar[t]) * x0) / sqrt(1 - abar[t])
            toward = sqrt(max(0.0, 1 - abar_prev[t] - std[t] ** 2))
            x_s = sqrt(abar_prev[t]) * x0 + toward * noise
            return x_s + std[t] * randn(x_t.shape, generators, x_t.device) if std[t] else x_s

        return calls(denoiser, x, below(self.timesteps, start), step, **draws)
