"""Timesteps drawn in proportion to the size of their losses.

    p_t = (1 - u) r_t / sum_s r_s + u / T,   weight = 1 / (T p_t),   r_t = sqrt(E L_t^2)

The mean is over the last few losses seen at t.
"""

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Chain, TimestepSampler


@final
class SecondMoment(TimestepSampler):
    """Draws t in proportion to the root mean square of its last losses (Nichol & Dhariwal 2021, eq. 18).

    Among all unbiased choices this one has the least variance of the weighted loss. Until every timestep has
    its `history`, t is uniform. The history is saved in checkpoints: timesteps of small loss are rarely
    drawn, and would take thousands of steps to fill it again.

    Args:
        history: how many of the last losses are kept for each timestep.
        uniform: the share u of draws that stays uniform; no weight exceeds 1 / u.
        extra: further draws per row and step, whose losses are computed without gradient and only recorded:
            "+2" in the thesis is extra = 2. Each costs a forward pass.
    """

    timesteps: Tensor
    losses: Tensor
    counts: Tensor
    probabilities: Tensor

    def __init__(
        self,
        schedule: Chain,
        history: Annotated[int, Field(ge=1)] = 10,
        uniform: Annotated[float, Field(gt=0, le=1)] = 0.001,
        extra: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        self.extra = extra
        self._uniform = uniform
        kept = len(schedule.timesteps)
        self.register_buffer("timesteps", schedule.timesteps, persistent=False)
        # A ring for each timestep: loss number i replaces the oldest one, in column i modulo `history`.
        self.register_buffer("losses", torch.zeros(kept, history, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(kept, dtype=torch.int64))
        self.register_buffer("probabilities", torch.full((kept,), 1 / kept, dtype=torch.float64))

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        index = torch.multinomial(self.probabilities, n, replacement=True)
        weight = 1 / (len(self.timesteps) * self.probabilities[index])
        return self.timesteps[index], weight.float()

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Record losses (N,) at timesteps t (N,), in order: at the same t, the later push out the earlier."""
        index, order = torch.searchsorted(self.timesteps, t).sort(stable=True)
        # Rank of each loss among those of its timestep, 0 first; sorting makes equal timesteps adjacent.
        earlier = torch.arange(len(t), device=t.device) - torch.searchsorted(index, index)
        length = self.losses.shape[1]
        place = index * length + (self.counts[index] + earlier) % length
        # Two losses may fall on one place; the last one stays. (Writing by index would leave that to chance.)
        last = torch.full_like(self.losses, -1, dtype=torch.int64).flatten()
        last = last.scatter_reduce(0, place, torch.arange(len(t), device=t.device), "amax")
        new = loss[order].double()[last.clamp(min=0)]
        self.losses.copy_(torch.where(last >= 0, new, self.losses.flatten()).view_as(self.losses))
        self.counts.index_add_(0, index, torch.ones_like(index))
        self._weigh()

    def _weigh(self) -> None:
        size = self.losses.square().mean(1).sqrt()
        total = size.sum()
        # Losses that are all 0, or not finite, say nothing; the trainer reports the latter.
        warm = (self.counts >= self.losses.shape[1]).all() & (total > 0) & total.isfinite()
        learned = torch.where(warm, size / total, 1 / len(size))
        self.probabilities.copy_((1 - self._uniform) * learned + self._uniform / len(size))
