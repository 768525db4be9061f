"""Equal Gaussians on a square grid."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coverage:
    """Coverage of a grid by points (n, 2), see `Modes25`; `spread` is nan if no point is precise."""

    modes: int
    precise: float
    spread: float


@dataclass(frozen=True)
class Grid:
    """side x side modes, `spacing` apart and centred at 0, each of standard deviation `std`."""

    side: int = 5
    spacing: float = 1.0
    std: float = 0.05

    def nearest(self, points: Tensor) -> Tensor:
        """The number along each axis, 0..side-1, of the mode nearest to points (n, 2); (n, 2) int64."""
        return (points / self.spacing + (self.side - 1) / 2).round().clamp(0, self.side - 1).long()

    def judge(self, points: Tensor, within: float = 3.0, needed: float = 1 / 500) -> Coverage:
        """The modes that points hit, the share of precise points and their spread; `within` is in std."""
        modes = self.nearest(points)
        away = points - (modes - (self.side - 1) / 2) * self.spacing
        precise = away.norm(dim=1) <= within * self.std
        counts = (modes @ torch.tensor([self.side, 1]))[precise].bincount()
        spread = away[precise].square().mean().sqrt()
        return Coverage(
            int((counts >= max(1, needed * len(points))).sum()), float(precise.float().mean()), float(spread)
        )
