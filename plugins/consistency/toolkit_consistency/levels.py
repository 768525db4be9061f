"""Pairs of neighbouring noise levels, and how often each pair is drawn."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Continuous, RecipeError, ScalarSchedule, at_step

Levels = Annotated[int, Field(ge=2)] | ScalarSchedule


class NoiseLevels:
    """The N noise levels of the path's grid, and a discretised log-normal law of neighbours among them.

    Levels i and i + 1 are drawn with a probability in proportion to

        erf((ln sigma_(i+1) - mean) / (sqrt(2) std)) - erf((ln sigma_i - mean) / (sqrt(2) std))

    (Song & Dhariwal 2024, section 3.5), i.e. that of ln sigma ~ N(mean, std^2) between the two.

    Args:
        discretization: N, or its schedule; what is not a whole number is rounded.
        mean: of ln sigma.
        std: of ln sigma.
    """

    def __init__(self, schedule: Continuous, discretization: Levels, mean: float, std: float) -> None:
        self.schedule, self.discretization, self.mean, self.std = schedule, discretization, mean, std

    def at(self, step: int) -> Tensor:
        """The levels (N,) of a step, ascending, float64.

        Raises:
            RecipeError: if a schedule has come to fewer than two.
        """
        n = round(at_step(self.discretization, step))
        if n < 2:
            raise RecipeError(f"objective.discretization is {n} in step {step}, and must be at least 2")
        return torch.tensor(self.schedule.grid(n, None)[-2::-1], dtype=torch.float64)

    def probabilities(self, levels: Tensor) -> Tensor:
        """Of each pair of neighbours (N - 1,) among levels (N,), up to a factor."""
        return torch.erf((levels.log() - self.mean) / (math.sqrt(2) * self.std)).diff()

    def draw(self, n: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """n pairs of neighbours, the lower and the higher: (n,) float32 each, on `device`."""
        levels = self.at(step)
        # In float32: not every device has float64.
        drawn = torch.multinomial(self.probabilities(levels).float().to(device), n, replacement=True)
        levels = levels.float().to(device)
        return levels[drawn], levels[drawn + 1]
