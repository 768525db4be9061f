"""Denoising with a coupling of noises and images."""

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import (
    Batch,
    Default,
    Denoiser,
    DenoisingLoss,
    DenoisingObjective,
    NoiseSchedule,
    Step,
    TimestepSampler,
)
from toolkit_flow.coupling import Coupling


@final
class Coupled(DenoisingObjective):
    """The objective `denoising` on noises that a coupling draws; with `independent` the same, bit for bit.

    Noises are coupled within a micro-batch, so that the pairs depend on its size and not on the number of
    processes. For a conditional network they are coupled class by class: were noises of a class more likely
    than others, a class asked for at sampling would start from the wrong ones.

    Args:
        timesteps: draws the times of a step; its weights keep the expected loss the same.
        loss: what is minimised at each time; flow matching is squared_error with target = "flow".
        coupling: which noise goes with which image.
        label_dropout: the share of labels, in [0, 1), replaced by the null class in training.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Annotated[TimestepSampler, Default("uniform")],
        loss: Annotated[DenoisingLoss, Default("squared_error")],
        coupling: Annotated[Coupling, Default("independent")],
        num_classes: int | None,
        label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(schedule, timesteps, num_classes, label_dropout)
        self.loss, self.coupling = loss, coupling

    def losses(self, batch: Batch, t: Tensor, step: Step) -> Tensor:
        denoiser: Denoiser = step.networks["denoiser"]
        with step.float32():
            noise = self._noise(batch.images, batch.labels if denoiser.conditional else None)
        x_t = self.schedule.diffuse(batch.images, t, noise)
        losses: Tensor = self.loss(denoiser(x_t, t, label=batch.labels), batch.images, noise)
        return losses

    def _noise(self, images: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            return self.coupling.noise(images)
        noise = torch.empty_like(images)
        for label in labels.unique():
            noise[labels == label] = self.coupling.noise(images[labels == label])
        return noise
