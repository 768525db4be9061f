"""What training and distillation share: the same answer from neighbouring points of one trajectory."""

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import (
    Batch,
    Continuous,
    Denoiser,
    Loss,
    Noise,
    Objective,
    Prediction,
    RecipeError,
    Sampler,
    Start,
    Step,
    Turn,
)
from toolkit_consistency.denoiser import ConsistencyPreconditioned
from toolkit_consistency.levels import Levels, NoiseLevels

HUBER = 0.00054  # times sqrt(dimensions): c of Song & Dhariwal (2024, section 3.3)
Above = Annotated[float, Field(gt=0)]


class ConsistencyObjective(Objective, ABC):
    """Asks a consistency model for one answer at neighbouring noise levels s < t.

        d(f(x_t, t), stop-gradient f(x_s, s)) / (t - s),      d(x, y) = sqrt(|x - y|^2 + c^2) - c

    Both calls see the same noise and the same dropout mask. A method says where x_s comes from, and who
    answers there.

    Args:
        schedule: the path; its time must be sigma.
        sample_shape: of one sample.
        discretization: N, the number of noise levels.
        mean: of ln sigma, at whose levels pairs are drawn most often.
        std: of ln sigma.
        huber_c: c; None is 0.00054 sqrt(dimensions).

    Raises:
        ValueError: for a path whose time is not sigma.
    """

    samples = "denoiser"

    def __init__(
        self,
        schedule: Continuous,
        sample_shape: tuple[int, ...],
        discretization: Levels,
        mean: float,
        std: float,
        huber_c: float | None,
    ) -> None:
        super().__init__()
        if not schedule.time_is_sigma:
            raise ValueError('consistency models are for a schedule whose time is sigma, such as "edm"')
        self.schedule, self.levels = schedule, NoiseLevels(schedule, discretization, mean, std)
        self.huber_c = HUBER * math.sqrt(math.prod(sample_shape)) if huber_c is None else huber_c

    @abstractmethod
    def neighbour(self, batch: Batch, noise: Tensor, x_t: Tensor, t: Tensor, s: Tensor, step: Step) -> Tensor:
        """x_s (B, ...) on the trajectory of x_t = images + t noise; t and s are (B,) float32."""

    @abstractmethod
    def target(self, step: Step) -> Denoiser:
        """The network that answers at s, called without gradient."""

    @final
    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=("denoiser",), loss=self._loss),)

    @final
    def measures(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=(), loss=self._loss),)

    @final
    def refuse_sampling(self, sampler: Sampler, start: Start) -> None:
        """Refuse samplers that walk: they take for an estimate what is an answer."""
        if keeps_noise(sampler, self.schedule):
            raise RecipeError(
                "a consistency model jumps to the data, and this sampler walks there: "
                'set [sampler] type = "consistency"'
            )

    def _loss(self, batch: Batch, step: Step) -> Loss:
        denoiser: ConsistencyPreconditioned = step.networks["denoiser"]
        if denoiser.null_class:
            raise RecipeError(
                "networks.denoiser.network.null_class = true: a consistency model never learns that class"
            )
        x0, label = batch.images, batch.labels
        s, t = self.levels.draw(len(x0), step.number, step.device)
        noise = torch.randn_like(x0)
        x_t = self.schedule.diffuse(x0, t, noise)
        x_s = self.neighbour(batch, noise, x_t, t, s, step)
        with step.no_grad(), drawing_alike(step.device):
            goal = self.target(step)(x_s, s, label=label).x0
        estimate = denoiser(x_t, t, label=label).x0
        losses = pseudo_huber(estimate, goal, self.huber_c) / (t - s)
        return Loss(losses.mean(), {"levels": torch.tensor(float(len(self.levels.at(step.number))))})


def drawing_alike(device: torch.device) -> AbstractContextManager[None]:
    """A context after which torch's generators are as before it, so that the same is drawn again."""
    more = [] if device.type == "cpu" else [device]  # besides the generator of the CPU
    return torch.random.fork_rng(more, device_type=device.type)


def keeps_noise(sampler: Sampler, schedule: Continuous) -> bool:
    """Whether a step to another noise level uses more of x_t than what the network answers to it."""

    def denoise(x: Tensor, t: float, s: float | None = None) -> Prediction:
        return Prediction(schedule, x, t, x0=torch.zeros_like(x))

    t, s, *_ = schedule.grid(3, None)
    ends = []
    for x in (0.0, t):
        x_t, generator = torch.full((1, 1), x), torch.Generator().manual_seed(0)
        ends.append(sampler.stepper()(denoise, x_t, t, s, Noise(x_t, [generator])))
    return not torch.equal(*ends)


def pseudo_huber(x: Tensor, y: Tensor, c: float) -> Tensor:
    """sqrt(|x - y|^2 + c^2) - c of each row, (B,) (Charbonnier et al. 1997).

    Written as a quotient, which keeps its digits where the difference is far below c.
    """
    square = (x - y).square().flatten(1).sum(1)
    return square / ((square + c**2).sqrt() + c)
