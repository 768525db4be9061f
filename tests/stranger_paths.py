"""A stranger's package `toolkit_bow`: a path, a sampler, a flow map, guidance; by public names alone.

`test_stranger_paths.py` installs this file as the package itself.
"""

import math
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

import toolkit
from toolkit import Ask, Batch, Continuous, Denoiser, DenoisingObjective, Prediction, Registry, Step

FREQUENCIES = math.pi / 2 * 2.0 ** torch.arange(4)


@final
class Bow(Continuous):
    """alpha = 1 - t^bend, sigma = t: late in its course the image goes faster than the noise comes.

    Args:
        bend: 1 is rectified flow.
    """

    def __init__(self, bend: Annotated[float, Field(gt=0)] = 2.0) -> None:
        self.bend = bend

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.bend

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -self.bend * t ** (self.bend - 1), torch.ones_like(t)


@final
class Midpoint(toolkit.Sampler):
    """The midpoint rule: goes on by the slope half-way, two network calls a step."""

    def __init__(self, schedule: Continuous) -> None:
        self.schedule = schedule

    def stepper(self) -> toolkit.SamplerStep:
        def step(denoise: toolkit.Denoise, x_t: Tensor, t: float, s: float, noise: toolkit.Noise) -> Tensor:
            half = (t + s) / 2
            x_half = x_t + (half - t) * denoise(x_t, t, t).flow
            return x_t + (s - t) * denoise(x_half, half, half).flow

        return step


@final
class FlowMap(Denoiser):
    """Says for any pair of times where the way from x_t leads; at s = t it is a plain denoiser."""

    flow_map = True

    def __init__(
        self, schedule: Continuous, sample_shape: tuple[int, ...], width: Annotated[int, Field(ge=1)] = 256
    ) -> None:
        super().__init__()
        self.schedule, size = schedule, math.prod(sample_shape)
        self.enter, self.leave = nn.Linear(size, width), nn.Linear(width, size)
        self.times = nn.Sequential(nn.Linear(4 * len(FREQUENCIES), width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(3)
        )

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        s = t if s is None else s
        angles = torch.stack([t, t - s], 1)[..., None] * FREQUENCIES.to(t.device)
        when = self.times(torch.cat([angles.sin(), angles.cos()], 1).flatten(1))
        h = self.enter(x_t.flatten(1))
        for block in self.blocks:
            h = h + block(h + when)
        return Prediction(self.schedule, x_t, t, velocity=self.leave(h).float().view(x_t.shape))


@final
class Shortcuts(DenoisingObjective):
    """Learns to denoise, and that one long way is two short ones (Frans et al. 2025), on any path."""

    def __init__(
        self,
        schedule: Continuous,
        timesteps: Annotated[toolkit.TimestepSampler, toolkit.Default("uniform")],
        num_classes: int | None,
    ) -> None:
        super().__init__(schedule, timesteps, num_classes)

    def losses(self, batch: Batch, t: Tensor, step: Step) -> Tensor:
        denoiser, x0, noise = step.networks["denoiser"], batch.images, torch.randn_like(batch.images)
        x_t = self.schedule.diffuse(x0, t, noise)
        alpha, sigma = self.schedule.at(t, x0)
        denoised = (denoiser(x_t, t).velocity - (alpha * noise - sigma * x0)).square()
        s = t * torch.rand_like(t) * 0.9
        with step.no_grad():
            x_half = self._jump(denoiser, x_t, t, (s + t) / 2)
            goal = self._jump(denoiser, x_half, (s + t) / 2, s)
        jumped = (self._jump(denoiser, x_t, t, s) - goal).square()
        return (denoised + jumped).flatten(1).mean(1)

    def _jump(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        prediction = denoiser(x_t, t, s=s)
        alpha, sigma = self.schedule.at(s, x_t)
        return alpha * prediction.x0 + sigma * prediction.noise


@final
class Thresholded(toolkit.Guidance):
    """Dynamic thresholding: x_0 is scaled back where it leaves [-1, 1] (Saharia et al. 2022).

    Args:
        quantile: of |x_0| in an image, which becomes 1 if it is above.
    """

    def __init__(self, quantile: Annotated[float, Field(gt=0, le=1)] = 0.99) -> None:
        self.quantile = quantile

    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        prediction = ask(label)
        x0 = prediction.x0
        bound = torch.quantile(x0.flatten(1).abs(), self.quantile, dim=1).clamp(min=1)
        bound = bound.view(-1, *[1] * (x0.ndim - 1))
        return Prediction(
            prediction.schedule, prediction.x_t, prediction.t, x0=x0.clamp(-bound, bound) / bound
        )


@toolkit.hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(toolkit.NoiseSchedule, "bow", Bow)
    registry.add(toolkit.Sampler, "midpoint", Midpoint)
    registry.add(Denoiser, "flow_map", FlowMap)
    registry.add(toolkit.Objective, "shortcuts", Shortcuts)
    registry.add(toolkit.Guidance, "thresholded", Thresholded)
