"""Where a walk starts: from which time, and at which x."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.randomness import randn


class Saveable(Protocol):
    """A model that can be saved beside the one that uses it."""

    def save_pretrained(self, path: str | Path) -> object: ...


class Sampled(Saveable, Protocol):
    """A pipeline, as far as a part that has one needs it to be."""

    @property
    def identity(self) -> str: ...

    @property
    def plugins(self) -> list[object]: ...


class Start(ABC):
    """Draws x_t at the time at which the sampler begins.

    Attributes:
        time: the walk begins at the largest time of the sampler's grid that is not above it: the path's
            `noisiest` begins at noise, `clean` hands back what `draw` gives, an x_0, and calls no network.
        calls: network calls that `draw` itself makes for one sample, where it has networks of its own.
    """

    time: float
    calls: int = 0

    @abstractmethod
    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        t: float,
        device: torch.device,
    ) -> Tensor:
        """x_t of `shape` (n, ...) at t, float32 on `device`; row i is drawn from `generators[i]` alone.

        At `clean`, or before it (to show what a walk starts from), it is an x_0. Networks of its own follow to
        `device` here.
        """

    def pipelines(self) -> Mapping[str, Sampled]:
        """The pipelines that it samples, by the option that states their folders: they are saved along."""
        return {}


class Noise(Start):
    """x ~ N(0, prior_std^2 I) at the noisiest time: the whole path is walked."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.time, self._std = schedule.noisiest, schedule.prior_std

    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        t: float,
        device: torch.device,
    ) -> Tensor:
        x = randn(shape, generators, device)
        return x if self._std == 1 else self._std * x


class Clean(Start):
    """The x_0 that another start starts from, for the same generators; no network refines it."""

    def __init__(self, start: Start) -> None:
        self.time, self.calls, self._start = -math.inf, start.calls, start

    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        t: float,
        device: torch.device,
    ) -> Tensor:
        return self._start.draw(shape, generators, -math.inf, device)
