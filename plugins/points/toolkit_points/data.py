"""Points from known modes, so that the modes that a model covers can be counted."""

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import DataSource, Positive

SPREAD = 0.05  # standard deviation of each of the 25 Gaussians (Xiao et al. 2022)
HELD_OUT_SEED = 2**31  # added to the seed of the training points


@final
class Gaussians25(DataSource):
    """Points (2,) of 25 equal Gaussians at {-2, -1, 0, 1, 2}^2, each of standard deviation 0.05.

    Used as they are, without scaling: each coordinate has standard deviation 1.4, and the noise of every
    schedule covers the grid.

    Args:
        length: number of points.
        seed: for the draws.
    """

    image_shape = (2,)
    num_classes = None

    def __init__(self, length: Positive = 100_000, seed: Annotated[int, Field(ge=0)] = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        modes = torch.randint(-2, 3, (length, 2), generator=generator)
        self.points = modes + SPREAD * torch.randn(length, 2, generator=generator)
        self._held_out_seed = seed + HELD_OUT_SEED

    def __len__(self) -> int:
        return len(self.points)

    def read(self, indices: Tensor) -> tuple[Tensor, None]:
        return self.points[indices], None

    def held_out(self) -> "Gaussians25":
        """A tenth as many points, of another seed."""
        return Gaussians25(max(1, len(self) // 10), self._held_out_seed)
