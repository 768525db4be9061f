"""What one call of a turn's loss is given."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of the endless, shuffled sequence of examples."""

    images: Tensor  # float32 (B, *image_shape); pictures in [-1, 1]
    labels: Tensor | None  # int64 (B,)
    position: int  # of the first row in the sequence
