"""Data sources, and the batches of their examples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.errors import DataError


class DataSource(ABC):
    """A fixed, indexable collection of examples.

    It may be sent to worker processes, so it must be picklable and must not draw random numbers.
    """

    image_shape: tuple[int, ...]  # (C, H, W) of pictures, or e.g. (2,) of points
    num_classes: int | None  # None without labels
    class_names: tuple[str, ...] | None = None  # of the classes, where the data names them

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The examples at these indices, and their labels, int64 (n,), or None without labels.

        Pictures are uint8 (n, C, H, W) in 0..255; other data is float32 (n, *image_shape), and used as it is.
        Both are on the CPU.

        Args:
            indices: int64 (n,), on the CPU; each in 0..len(self)-1.

        Raises:
            DataError: if an example cannot be read.
        """

    def check(self, indices: Tensor) -> None:
        """Check that the examples at these indices can be read; override it where that is cheaper.

        Raises:
            DataError: as `read` would.
        """
        self.read(indices)

    def held_out(self) -> "DataSource | None":
        """The examples that are kept for measuring and never trained on; None if there are none."""
        return None


def to_float(examples: Tensor) -> Tensor:
    """Pictures, uint8 of any shape, as float32 in [-1, 1]; other data float32 as it stands, same device."""
    if examples.dtype == torch.uint8:
        return examples.to(torch.float32).div_(127.5).sub_(1)
    return examples.float()


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of the endless, shuffled sequence of examples."""

    images: Tensor  # float32 (B, *sample_shape): pictures in [-1, 1], or their latents
    labels: Tensor | None  # int64 (B,)
    position: int  # of the first row in the sequence


class UnreadableImages(DataError):
    """Pictures that cannot be decoded, all of them named."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)  # as args, so that it crosses process boundaries
        self.names = names

    def __str__(self) -> str:
        listed, rest = ", ".join(self.names[:5]), len(self.names) - 5
        more = f" and {rest} more" if rest > 0 else ""
        count = "1 image" if len(self.names) == 1 else f"{len(self.names)} images"
        return f"{count} cannot be read: {listed}{more}. Repair or remove what is named here."
