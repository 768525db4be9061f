"""Where the reverse chain starts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.randomness import randn
from toolkit.schedule import NoiseSchedule


class Initialiser(ABC):
    """Draws x_t at the timestep at which the sampler begins.

    `start` says where: the sampler's network calls run over its kept timesteps below `start`. T begins at
    noise; 0 calls no network and hands back what `draw` gives, an x_0.
    """

    start: int

    @abstractmethod
    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        timestep: int,
        device: torch.device,
    ) -> Tensor:
        """x_t of `shape` (n, ...) at `timestep`, the largest kept index below `start` (-1 if there is none).

        Row i is drawn from `generators[i]` alone.
        """


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
