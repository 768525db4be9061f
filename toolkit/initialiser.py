"""Where the reverse chain starts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toolkit.randomness import randn
from toolkit.schedule import NoiseSchedule

if TYPE_CHECKING:  # a pipeline has an initialiser, and an initialiser may have pipelines
    from toolkit.pipeline import Pipeline


class Initialiser(ABC):
    """Draws x_t at the timestep at which the sampler begins.

    `start` says where: the sampler's network calls run over its kept timesteps below `start`. T begins at
    noise; 0 calls no network and hands back what `draw` gives, an x_0.

    `calls` are the network calls that `draw` itself makes for one sample, where it has networks of its own.
    """

    start: int
    calls: int = 0

    @abstractmethod
    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        timestep: int,
        device: torch.device,
    ) -> Tensor:
        """x_t of `shape` (n, ...) at `timestep`, the largest kept index below `start`, on `device`.

        Where none is kept below, and to show what a chain starts from, `timestep` is -1: x_0 itself. Row i is
        drawn from `generators[i]` alone. Networks of its own follow to `device` here.
        """

    def pipelines(self) -> Mapping[str, "Pipeline"]:
        """The pipelines that it samples, by the option that states their folders: they are saved along."""
        return {}


class Noise(Initialiser):
    """x_T ~ N(0, I): the reverse chain runs in full."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.start = schedule.num_train_timesteps

    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        timestep: int,
        device: torch.device,
    ) -> Tensor:
        return randn(shape, generators, device)


class Clean(Initialiser):
    """The x_0 that another initialiser starts from, for the same generators; no network refines it."""

    def __init__(self, initialiser: Initialiser) -> None:
        self.start, self.calls, self._initialiser = 0, initialiser.calls, initialiser

    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        timestep: int,
        device: torch.device,
    ) -> Tensor:
        return self._initialiser.draw(shape, generators, -1, device)
