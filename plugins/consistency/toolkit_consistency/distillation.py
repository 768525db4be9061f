"""Consistency distillation: a teacher says where the trajectory goes."""

from typing import Literal, final

from torch import Tensor

from toolkit import Batch, Continuous, Denoiser, Prediction, RecipeError, Step
from toolkit_consistency.denoiser import ConsistencyPreconditioned
from toolkit_consistency.levels import Levels
from toolkit_consistency.objective import Above, ConsistencyObjective


@final
class ConsistencyDistillation(ConsistencyObjective):
    """Consistency distillation (Song et al. 2023, algorithm 2): x_s is one Heun step of a teacher from x_t.

    Distance, weights and the law of noise levels are those of `consistency_training`; the paper draws levels
    uniformly, weights them alike and measures by LPIPS.

    Args:
        discretization: N, the number of noise levels of the path's grid, or its schedule.
        target: who answers at s: the "student" itself, or its average, "ema", which needs [ema.denoiser] and
            has no dropout.
        mean: of ln sigma, at whose levels pairs are drawn most often.
        std: of ln sigma.
        huber_c: c of the pseudo-Huber distance; None is 0.00054 sqrt(dimensions).
    """

    roles = {"denoiser": ConsistencyPreconditioned, "teacher": Denoiser}

    def __init__(
        self,
        schedule: Continuous,
        sample_shape: tuple[int, ...],
        discretization: Levels = 18,
        target: Literal["student", "ema"] = "student",
        mean: float = -1.1,
        std: Above = 2.0,
        huber_c: Above | None = None,
    ) -> None:
        super().__init__(schedule, sample_shape, discretization, mean, std, huber_c)
        self.averaged = target == "ema"

    def neighbour(self, batch: Batch, noise: Tensor, x_t: Tensor, t: Tensor, s: Tensor, step: Step) -> Tensor:
        teacher: Denoiser = step.networks["teacher"]
        if teacher.conditional != step.networks["denoiser"].conditional:
            raise RecipeError("networks.teacher and networks.denoiser must both be conditional, or neither")

        def slope(x: Tensor, time: Tensor) -> Tensor:
            prediction: Prediction = teacher(x, time, s=time, label=batch.labels)
            return prediction.flow

        dt = (s - t).view(-1, *[1] * (x_t.ndim - 1))
        with step.no_grad():
            first = slope(x_t, t)
            return x_t + dt * (first + slope(x_t + dt * first, s)) / 2

    def target(self, step: Step) -> Denoiser:
        denoiser: Denoiser = step.networks["denoiser"]
        average: Denoiser = step.ema["denoiser"]
        if self.averaged and average is denoiser and denoiser.training:
            raise RecipeError('objective.target = "ema" needs a section [ema.denoiser]')
        return average if self.averaged else denoiser
