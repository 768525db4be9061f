"""Which timesteps a training step looks at."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from toolkit.schedule import NoiseSchedule


class Timesteps(nn.Module, ABC):
    """Draws timesteps with weights such that E[weight f(t)] is the uniform mean of f; state is buffers."""

    extra: int = 0  # further draws a step whose losses are wanted, without gradient, by observe()

    @property
    def learns(self) -> bool:
        """Whether observe() does anything; if not, no losses are gathered."""
        return type(self).observe is not Timesteps.observe

    @abstractmethod
    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """t (n,) int64 of the original chain and weight (n,) float32, from torch's own generator."""

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Learn from unweighted losses (N,) at t (N,), in the order of the global batch."""
        return None


class Uniform(Timesteps):
    """Every kept timestep equally often, with weight 1 (Ho et al. 2020, algorithm 1)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.register_buffer("timesteps", schedule.timesteps, persistent=False)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        timesteps: Tensor = self.timesteps  # type: ignore[assignment]
        index = torch.randint(len(timesteps), (n,), device=device)
        return timesteps[index], torch.ones(n, device=device)
