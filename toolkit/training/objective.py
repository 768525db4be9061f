"""Objectives: short lists of turns. The trainer knows turns, and no method.

A turn names the networks that it trains and computes their loss on a batch. While it runs, every other
network is frozen, so a plugin never has to freeze or detach one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toolkit.data.source import Batch
from toolkit.diffusion.prediction import Prediction
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.start import Start
from toolkit.registry.signature import Positive, Rate

Records = Mapping[str, Tensor]


Length = Positive | Literal["run"]  # of a schedule: so many steps, or all that the run takes


def in_steps(length: Length, run_steps: int | None) -> int:
    """The steps of a schedule that may be as long as its run.

    Args:
        length: as the recipe states it.
        run_steps: all that the run takes; None if time alone ends it.

    Raises:
        ValueError: if it shall be as long as a run whose length nobody knows.
    """
    if length != "run":
        return length
    if run_steps is None:
        raise ValueError(
            'steps = "run" needs an end of the run in steps: set run.steps, run.images, or a number'
        )
    return run_steps


class ScalarSchedule(ABC):
    """A number as a function of the step: no state, nothing to save.

    An option that is a number or follows a schedule has the type `float | ScalarSchedule`; see `at_step`.
    """

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The number in step 0, 1, 2, ..."""


class LinearScalar(ScalarSchedule):
    """A straight line from `start` to `end`, constant afterwards.

    Args:
        start: the value in step 0.
        end: the last value.
        steps: how long it takes; "run" ends with the run.
    """

    def __init__(self, start: Rate, end: Rate, steps: Length = "run", run_steps: int | None = None) -> None:
        self.start, self.end, self.steps = start, end, in_steps(steps, run_steps)

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


class CosineScalar(ScalarSchedule):
    """Half a cosine from `start` to `end`, constant afterwards.

    Args:
        start: the value in step 0.
        end: the last value.
        steps: how long it takes; "run" ends with the run.
    """

    def __init__(self, start: Rate, end: Rate, steps: Length = "run", run_steps: int | None = None) -> None:
        self.start, self.end, self.steps = start, end, in_steps(steps, run_steps)

    def __call__(self, step: int) -> float:
        done = min(1.0, step / self.steps)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


def at_step(value: float | ScalarSchedule, step: int) -> float:
    """The value in a step of an option that is a number or follows a schedule."""
    return value(step) if isinstance(value, ScalarSchedule) else value


@dataclass(frozen=True)
class Step:
    """Where the run is, and the networks that a turn's loss may call.

    Attributes:
        number: steps (cycles of all turns) done before this one.
        repetition: 0..times-1 within the turn.
        device: of batches and networks.
        networks: by role; those that the turn does not train are frozen.
        ema: by role, the average where the recipe has [ema.<role>], else the network itself; and averages of
            other widths, by names of their own, for what must be the same in all.
        float32: a context without autocast, for what bf16 would spoil (R1).
        no_grad: a context for a pass without gradient through a network that is being trained; plain
            torch.no_grad would leave cast weights behind under autocast.
        rows: the rows of the global batch that the micro-batch holds; None outside training.
        total: rows of the global batch.
        backward: differentiates a part of the loss at once and frees its graph, for a loss whose graph is too
            large as a whole. The parts must sum to `Loss.total`, which is then returned detached.
    """

    number: int
    repetition: int
    device: torch.device
    networks: Mapping[str, Any]  # each is what the objective's `roles` says
    ema: Mapping[str, Any]
    float32: Callable[[], AbstractContextManager[object]]
    no_grad: Callable[[], AbstractContextManager[object]] = torch.no_grad
    backward: Callable[[Tensor], None] = Tensor.backward
    rows: range | None = None
    total: int | None = None


@dataclass(frozen=True)
class Loss:
    """What a turn computes from one micro-batch.

    Attributes:
        total: scalar, a mean over the rows of the micro-batch; its gradient trains the turn's networks.
        logs: scalars to show and record, under the same names on every process; they stay on the device until
            the trainer needs them.
        records: tensors (B, ...) that the objective gets back in `observe`, gathered over the global batch in
            the order of its rows. Leave it empty if nothing learns from them: gathering costs time.
    """

    total: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    records: Records = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One kind of optimizer step within the cycle.

    Attributes:
        name: keys the random seeds, the logs and `observe`; adding a turn re-seeds no other.
        trains: the roles whose networks this turn updates; empty for a measure.
        loss: computes the loss of one micro-batch.
        times: optimizer steps in a row (a GAN's n_dis), each on a batch of its own; the first steps of all
            turns see the same batch.
        second_order: the roles whose networks the loss differentiates twice (R1, GP): compiling them is
            refused.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[[Batch, Step], Loss]
    times: int = 1
    second_order: tuple[str, ...] = ()


class Objective(nn.Module, ABC):
    """What is trained and how: roles for networks, and turns over them.

    It is a module because its state is buffers: `.to`, checkpoints and resuming need nothing more. It holds
    no networks; a turn finds them in `step.networks`.
    """

    roles: Mapping[str, type[nn.Module]]  # what [networks] must have: role -> its interface
    samples: str | None  # the role that a saved pipeline samples with; None: the trained networks are saved

    @abstractmethod
    def turns(self) -> tuple[Turn, ...]:
        """The turns of one step, in order."""

    def asleep(self, step: Step) -> Mapping[str, Collection[str]]:
        """The parameters, by role and name, that this step shall not train: a function of the step alone.

        They are frozen for the step, optimizers pass them over, and the first cycle asks no gradient of them.
        """
        return {}

    def refuse_sampling(self, sampler: Sampler, start: Start) -> None:
        """Raise a RecipeError if what it trains cannot be sampled so; called when a run is built.

        Most methods are sampled by any. One that trains for certain times alone knows which.
        """
        return None

    def refuse_sharding(self) -> None:
        """Raise a RecipeError if its networks cannot be in parts; called when such a run is built.

        They can where turns call networks only as a whole, by `forward`, and as often on every process.
        """
        return None

    def observe(self, turn: str, records: Records) -> None:
        """Learn from the records of one turn over the global batch; called with the same on every process."""
        return None

    def measures(self) -> tuple[Turn, ...]:
        """Losses to report on held-out data: networks in eval(), EMA weights, fixed seeds, no gradient."""
        return ()


class DenoisingLoss(nn.Module, ABC):
    """How wrong a prediction is: a pure function, all randomness is its arguments.

    A loss that calls the network more than once, or elsewhere, is a `DenoisingObjective` instead.
    """

    @abstractmethod
    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        """One value a row, (B,) float32.

        Args:
            prediction: what the network says of `prediction.x_t` at `prediction.t`, (B,).
            x0: (B, ...) float32, the clean images.
            noise: (B, ...) float32, the noise that x_t consists of besides x0.
        """
