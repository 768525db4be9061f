"""The error of the predicted noise, weighted down where there is little of it. Replace it by your method.

    L = E_{t, x_0, noise} w_t mean (noise - noise_theta(x_t, t))^2
    w_t = min(SNR_t, gamma) / SNR_t,   SNR_t = abar_t / (1 - abar_t)

Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023 (arXiv 2303.09556).
"""

from typing import Annotated

import torch
from pydantic import Field
from toolkit import Batch, Default, Denoiser, Loss, NoiseSchedule, Objective, Records, Step, TimestepSampler, Turn
from torch import Tensor


def min_snr(schedule: NoiseSchedule, t: Tensor, gamma: float) -> Tensor:
    """(B,) min(SNR_t, gamma) / SNR_t for t (B,)."""
    like = torch.empty(len(t))
    snr = (schedule.signal(t, like) / schedule.sigma(t, like)).square()
    return (gamma / snr).clamp(max=1)


class BrightObjective(Objective):
    """Trains one denoiser on its noise, with min-SNR weights (Hang et al. 2023).

    Args:
        timesteps: which timesteps a step looks at.
        gamma: the signal-to-noise ratio beyond which the weight falls.
    """

    roles = {"denoiser": Denoiser}  # [networks.denoiser] of the recipe
    samples = "denoiser"

    # The signature is the schema of [objective]. `schedule` is supplied by the toolkit, the rest are options.
    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Annotated[TimestepSampler, Default("uniform")],
        gamma: Annotated[float, Field(gt=0)] = 5.0,
    ) -> None:
        super().__init__()
        self.schedule, self.timesteps, self.gamma = schedule, timesteps, gamma

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=("denoiser",), loss=self._train),)

    def observe(self, turn: str, records: Records) -> None:
        self.timesteps.observe_records(records)

    def _train(self, batch: Batch, step: Step) -> Loss:
        def again(t: Tensor) -> Tensor:  # for timesteps that learn from more losses than are trained on
            with step.no_grad():
                return self._losses(batch, step, t)

        t, weight = self.timesteps.draw(len(batch.images), step.device)
        losses = self._losses(batch, step, t)
        return Loss((weight * losses).mean(), records=self.timesteps.records(t, losses, again))

    def _losses(self, batch: Batch, step: Step, t: Tensor) -> Tensor:
        noise = torch.randn_like(batch.images)
        x_t = self.schedule.diffuse(batch.images, t, noise)
        error = step.networks["denoiser"](x_t, t, batch.labels).noise - noise
        losses: Tensor = min_snr(self.schedule, t, self.gamma) * error.square().flatten(1).mean(1)
        return losses
