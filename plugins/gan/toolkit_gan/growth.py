"""The objective of progressive growing (Karras et al. 2018)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, final

import torch
from pydantic import Field

from toolkit import Batch, Chain, Loss, Objective, Step, Turn
from toolkit_gan.objective import GAN
from toolkit_gan.progressive import ProgressiveDiscriminator, ProgressiveGenerator, asleep, at_stage

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


@final
class ProgressiveGAN(Objective):
    """WGAN-GP on images that grow from 4x4 pixels.

    A level holds for `phase_images` images; then the next one, of twice the side, fades in over as many; and
    so on to the full size. Real images are blended as generated ones are. Where a run is in this follows from
    the number of its step alone.

    Levels that are not used yet are asleep: their layers begin with an optimizer that has not seen them. (The
    authors' TensorFlow code resets the optimizers of all layers there.)

    Args:
        phase_images: images (steps times batch size) for which a level holds, and over which one fades in.
        gp_weight: weight of E (|grad D| - 1)^2 between real and generated images, the slope being with
            respect to images of full size (as in the authors' TensorFlow code).
        drift: weight of E D(x)^2 at real images.
    """

    roles = {"generator": ProgressiveGenerator, "discriminator": ProgressiveDiscriminator}
    samples = "generator"

    def __init__(
        self, schedule: Chain, phase_images: Count, gp_weight: Weight = 10.0, drift: Weight = 0.001
    ) -> None:
        super().__init__()
        self.phase_images = phase_images
        self.gan = GAN(schedule, "wasserstein", gp_weight=gp_weight, drift=drift)

    def turns(self) -> tuple[Turn, ...]:
        return tuple(replace(turn, loss=partial(self._grown, turn.loss)) for turn in self.gan.turns())

    def measures(self) -> tuple[Turn, ...]:
        return tuple(replace(turn, loss=partial(self._blended, turn.loss)) for turn in self.gan.measures())

    def asleep(self, step: Step) -> Mapping[str, set[str]]:
        stage = self.stage(step)
        return {role: asleep(network, stage) for role, network in step.networks.items()}

    def stage(self, step: Step) -> float:
        """How far networks have grown in a step of training; see `Growth`."""
        assert step.total is not None, "measures take the networks as they are"
        phase, into = divmod(step.number * step.total, self.phase_images)
        last: int = step.networks["generator"].growth.last
        return min(float(last), phase // 2 + phase % 2 * into / self.phase_images)

    def _grown(self, loss: Callable[[Batch, Step], Loss], batch: Batch, step: Step) -> Loss:
        for network in (*step.networks.values(), *step.ema.values()):
            network.growth.stage = self.stage(step)
        return self._blended(loss, batch, step)

    def _blended(self, loss: Callable[[Batch, Step], Loss], batch: Batch, step: Step) -> Loss:
        growth = step.networks["discriminator"].growth
        result = loss(replace(batch, images=at_stage(batch.images, growth)), step)
        return replace(result, logs={**result.logs, "stage": torch.tensor(growth.stage)})
