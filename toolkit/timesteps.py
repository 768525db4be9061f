"""Which timesteps a training step looks at."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

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

    def records(self, t: Tensor, losses: Tensor, again: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The `Loss.records` of a step that observe() learns from, (B, 1 + extra) each; none if it does not.

        `losses` (B,) are the unweighted ones at t (B,); `again` computes those of the same rows at further
        timesteps, without gradient.
        """
        if not self.learns:
            return {}
        drawn, seen = [t], [losses.detach()]
        for _ in range(self.extra):
            drawn.append(self.draw(len(t), t.device)[0])
            seen.append(again(drawn[-1]))
        return {"t": torch.stack(drawn, 1), "loss": torch.stack(seen, 1)}

    def observe_records(self, records: Mapping[str, Tensor]) -> None:
        """observe() what records() gave, draw by draw: the first of every row, then the second, and so on."""
        if "t" in records:
            self.observe(records["t"].T.flatten(), records["loss"].T.flatten())


class Uniform(Timesteps):
    """Every kept timestep equally often, with weight 1 (Ho et al. 2020, algorithm 1)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.register_buffer("timesteps", schedule.timesteps, persistent=False)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        timesteps: Tensor = self.timesteps  # type: ignore[assignment]
        index = torch.randint(len(timesteps), (n,), device=device)
        return timesteps[index], torch.ones(n, device=device)
