"""Where a walk starts: at which time, and from which x."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.randomness import randn


class Saveable(Protocol):
    """A model that can be saved in the folder of the pipeline that uses it."""

    def save_pretrained(self, path: str | Path) -> object: ...


class Sampled(Saveable, Protocol):
    """The part of a pipeline's interface that a component with a pipeline inside relies on."""

    @property
    def identity(self) -> str: ...

    @property
    def plugins(self) -> list[object]: ...


class Start(ABC):
    """Draws x_t at the time at which the sampler begins.

    Attributes:
        time: the walk begins at the largest time of the sampler's grid that does not exceed it. At the
            path's `noisiest` it begins at noise; at `clean` it returns the x_0 that `draw` gives and calls no
            network.
        calls: network calls that `draw` itself makes for one sample, if it has networks of its own.
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

        For t at `clean` or below (used to show what a walk starts from) it is an x_0. Move networks of its
        own to `device` here.
        """

    def with_networks(self, networks: Mapping[str, Any]) -> "Start":
        """The start of a run as it stands, for one that samples a network of the run; else itself.

        Args:
            networks: a `SavedNetwork` for each role, averaged where samples are of averages; the run goes on
                training them.
        """
        return self

    def pipelines(self) -> Mapping[str, Sampled]:
        """The pipelines that it samples, by the option that names their folder; saved along with it."""
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
    """The x_0 that another start starts from, for the same generators; the denoiser does not refine it."""

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
