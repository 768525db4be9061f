"""Objectives that the conformance kit must refuse, one for each of its checks."""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit import Batch, Denoiser, Loss, NoiseSchedule, Objective, Records, Step, Turn

RECIPE = """
[data]
type = "gaussians25"
length = 64
[schedule]
type = "linear"
num_train_timesteps = 10
beta_start = 0.1
beta_end = 0.9
[objective]
type = "{name}"
[networks.denoiser]
type = "ddpm_mlp"
width = 8
[networks.teacher]
type = "ddpm_mlp"
width = 8
[optimizers.denoiser]
type = "sgd"
lr = 1e-2
"""


class Imitation(Objective):
    """The denoiser imitates a teacher at random points of the chain."""

    roles, samples = {"denoiser": Denoiser, "teacher": Denoiser}, "denoiser"

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("imitate", ("denoiser",), self.loss),)

    def rows(self, batch: Batch, step: Step) -> Tensor:
        t = torch.randint(10, (len(batch.images),))
        x_t = self.schedule.diffuse(batch.images, t, torch.randn_like(batch.images))
        ours, theirs = (step.networks[role](x_t, t).noise for role in ("denoiser", "teacher"))
        return (ours - theirs).square().flatten(1).mean(1)

    def loss(self, batch: Batch, step: Step) -> Loss:
        return Loss(self.rows(batch, step).mean())


class LogsInfinity(Imitation):
    def loss(self, batch: Batch, step: Step) -> Loss:
        return Loss(super().loss(batch, step).total, {"distance": torch.tensor(float("inf"))})


class EveryRunAnother(Imitation):
    built = itertools.count(1)

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.scale = next(self.built)

    def loss(self, batch: Batch, step: Step) -> Loss:
        return Loss(super().loss(batch, step).total * self.scale)


class AsksNumpy(Imitation):
    def loss(self, batch: Batch, step: Step) -> Loss:
        np.random.rand()
        return super().loss(batch, step)


class Unfreezes(Imitation):
    def loss(self, batch: Batch, step: Step) -> Loss:
        step.networks["teacher"].requires_grad_(True)
        return super().loss(batch, step)


class Sums(Imitation):
    def loss(self, batch: Batch, step: Step) -> Loss:
        return Loss(self.rows(batch, step).sum())


class Observing(Imitation):
    def loss(self, batch: Batch, step: Step) -> Loss:
        rows = self.rows(batch, step)
        return Loss(rows.mean(), records={"rows": rows.detach()})


class StartsAnew(Observing):
    """Only reports what it counts, and begins at 0 whenever it is loaded."""

    seen: Tensor

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.register_buffer("seen", torch.zeros(()))

    def observe(self, turn: str, records: Records) -> None:
        self.seen += len(records["rows"])

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict({"seen": torch.zeros(())}, *args, **kwargs)


class CountsInPython(Observing):
    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.count = 0

    def observe(self, turn: str, records: Records) -> None:
        self.count += 1

    def loss(self, batch: Batch, step: Step) -> Loss:
        found = super().loss(batch, step)
        return Loss(found.total * (1 + self.count), records=found.records)
