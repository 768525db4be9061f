"""DDPM's objective, equation 14: predict the noise that was added.

L_simple = E_{t, x_0, noise} mean (noise - noise_theta(x_t, t))^2
x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise
"""

from typing import Annotated

import torch
from torch import Tensor

from toolkit import (
    Batch,
    Default,
    Denoiser,
    DenoisingLoss,
    Loss,
    NoiseSchedule,
    Objective,
    Prediction,
    Records,
    Step,
    Timesteps,
    Turn,
)


class Simple(DenoisingLoss):
    """Squared error of the predicted noise, a mean over the pixels of a row (Ho et al. 2020, eq. 14)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self._schedule = schedule

    def forward(
        self, denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Tensor, label: Tensor | None = None
    ) -> Tensor:
        x_t = self._schedule.diffuse(x0, t, noise)
        prediction: Prediction = denoiser(x_t, t, label)
        return (prediction.noise - noise).square().flatten(1).mean(1)


class DDPM(Objective):
    """Trains one denoiser by a denoising loss at random timesteps (Ho et al. 2020, algorithm 1).

    Args:
        timesteps: which timesteps a step looks at; a weight keeps the expected loss the same.
        loss: what is minimised at a timestep.
    """

    roles = {"denoiser": Denoiser}
    samples = "denoiser"

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Annotated[Timesteps, Default("uniform")],
        loss: Annotated[DenoisingLoss, Default("simple")],
    ) -> None:
        super().__init__()
        self.timesteps, self.loss, self._kept = timesteps, loss, schedule.timesteps

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=("denoiser",), loss=self._train),)

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=(), loss=self._measure),)

    def observe(self, turn: str, records: Records) -> None:
        self.timesteps.observe_records(records)

    def _train(self, batch: Batch, step: Step) -> Loss:
        def again(t: Tensor) -> Tensor:
            with step.no_grad():
                return self._losses(batch, step, t)

        t, weight = self.timesteps.draw(len(batch.images), step.device)
        losses = self._losses(batch, step, t)
        logs = {"unweighted": losses.mean()} if self.timesteps.learns else {}
        return Loss((weight * losses).mean(), logs, self.timesteps.records(t, losses, again))

    def _measure(self, batch: Batch, step: Step) -> Loss:
        # At uniform timesteps, the same for every run whatever it learns from, so that runs can be compared.
        kept = self._kept.to(step.device)
        t = kept[torch.randint(len(kept), (len(batch.images),), device=step.device)]
        return Loss(self._losses(batch, step, t).mean())

    def _losses(self, batch: Batch, step: Step, t: Tensor) -> Tensor:
        noise = torch.randn_like(batch.images)
        denoiser = step.networks["denoiser"]
        losses: Tensor = self.loss(denoiser, batch.images, t, noise, batch.labels)
        return losses
