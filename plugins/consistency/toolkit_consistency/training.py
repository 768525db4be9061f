"""Consistency training: no teacher, the trajectory is that of the noise itself."""

from typing import final

from torch import Tensor

from toolkit import Batch, Continuous, Denoiser, Step
from toolkit_consistency.denoiser import ConsistencyPreconditioned
from toolkit_consistency.levels import Levels
from toolkit_consistency.objective import Above, ConsistencyObjective


@final
class ConsistencyTraining(ConsistencyObjective):
    """Improved consistency training, iCT (Song & Dhariwal 2024): x_s = images + s noise, no teacher.

    The target is the network itself, not an average. Its variance grows with the number of levels, so that
    this begins small: `discretization = {type = "doubling", ...}`. Losses at different N are not comparable.

    Args:
        discretization: N, the number of noise levels of the path's grid, or its schedule.
        mean: of ln sigma, at whose levels pairs are drawn most often.
        std: of ln sigma.
        huber_c: c of the pseudo-Huber distance; None is 0.00054 sqrt(dimensions).
    """

    roles = {"denoiser": ConsistencyPreconditioned}

    def __init__(
        self,
        schedule: Continuous,
        sample_shape: tuple[int, ...],
        discretization: Levels,
        mean: float = -1.1,
        std: Above = 2.0,
        huber_c: Above | None = None,
    ) -> None:
        super().__init__(schedule, sample_shape, discretization, mean, std, huber_c)

    def neighbour(self, batch: Batch, noise: Tensor, x_t: Tensor, t: Tensor, s: Tensor, step: Step) -> Tensor:
        return self.schedule.diffuse(batch.images, s, noise)

    def target(self, step: Step) -> Denoiser:
        denoiser: Denoiser = step.networks["denoiser"]
        return denoiser
