"""Optimizers and learning-rate schedules, one of each per network."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from toolkit.registry.signature import Default, Positive, Rate
from toolkit.training.objective import CosineScalar, Length, LinearScalar, in_steps

Count = Annotated[int, Field(ge=0)]


class LRSchedule(ABC):
    """A learning rate as a function of the base rate and the step: no state, nothing to save.

    Attributes:
        end: the step from which on it no longer changes; None if there is none, or after a warm-up.
    """

    end: int | None = None

    @abstractmethod
    def __call__(self, base: float, step: int) -> float:
        """The learning rate in step 0, 1, 2, ... of an optimizer whose recipe has lr = `base`."""


class Constant(LRSchedule):
    """The base rate after a linear warm-up.

    Args:
        warmup: steps over which the rate rises from 0 (at step 0) to the base (Ho et al. 2020 take 5000).
    """

    def __init__(self, warmup: Count = 0) -> None:
        self.warmup = warmup

    def __call__(self, base: float, step: int) -> float:
        return base * min(1.0, step / self.warmup) if self.warmup else base


class Cosine(LRSchedule):
    """Half a cosine from the base rate down to `floor`, constant afterwards.

    Args:
        steps: how long the descent takes; "run" ends with the run.
        floor: the last rate, in absolute terms.
        every: steps for which the rate is held (a published schedule may change it once an epoch).
        warmup: steps over which the rate, which is 0 at step 0, rises to the cosine.
    """

    def __init__(
        self,
        steps: Length = "run",
        floor: Rate = 0.0,
        every: Positive = 1,
        warmup: Count = 0,
        run_steps: int | None = None,
    ) -> None:
        self.end = self.steps = in_steps(steps, run_steps)
        self.floor, self.every, self.rise = floor, every, Constant(warmup)

    def __call__(self, base: float, step: int) -> float:
        descended = CosineScalar(base, self.floor, self.steps)(step // self.every * self.every)
        return self.rise(descended, step)


class Linear(LRSchedule):
    """A straight line from the base rate down to `floor`, constant afterwards.

    Args:
        steps: how long the descent takes; "run" ends with the run.
        floor: the last rate, in absolute terms.
    """

    def __init__(self, steps: Length = "run", floor: Rate = 0.0, run_steps: int | None = None) -> None:
        self.end = self.steps = in_steps(steps, run_steps)
        self.floor = floor

    def __call__(self, base: float, step: int) -> float:
        return LinearScalar(base, self.floor, self.steps)(step)


@dataclass(frozen=True)
class OptimizerOptions:
    """Options of every optimizer, whatever its type.

    Args:
        lr_schedule: the learning rate as a function of the step.
        clip_norm: scale the network's gradient down to this norm if it is larger.
    """

    lr_schedule: Annotated[LRSchedule, Default("constant")]
    clip_norm: Annotated[float, Field(gt=0)] | None = None


def fused_where_possible(params: list[nn.Parameter]) -> bool:
    """Whether torch has a fused kernel for these parameters (one pass over memory instead of eight)."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for p in params)


def adam(
    params: Iterable[nn.Parameter],
    lr: Rate,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Rate = 0.0,
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2015), fused.

    Args:
        lr: the base learning rate.
        betas: decay rates of the gradient's mean and second moment.
        eps: added to the denominator.
        weight_decay: L2 penalty, added to the gradient.
    """
    held = list(params)
    return torch.optim.Adam(held, lr, betas, eps, weight_decay, fused=fused_where_possible(held))


def adamw(
    params: Iterable[nn.Parameter],
    lr: Rate,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: Rate = 0.01,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused.

    Args:
        lr: the base learning rate.
        betas: decay rates of the gradient's mean and second moment.
        eps: added to the denominator.
        weight_decay: each step takes lr x weight_decay of a weight away.
    """
    held = list(params)
    return torch.optim.AdamW(held, lr, betas, eps, weight_decay, fused=fused_where_possible(held))


def sgd(
    params: Iterable[nn.Parameter], lr: Rate, momentum: Rate = 0.0, weight_decay: Rate = 0.0
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        lr: the base learning rate.
        momentum: the share of the last step that is repeated.
        weight_decay: L2 penalty, added to the gradient.
    """
    return torch.optim.SGD(list(params), lr, momentum, weight_decay=weight_decay)
