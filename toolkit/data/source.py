"""Where examples come from."""

from abc import ABC, abstractmethod

from torch import Tensor


class DataSource(ABC):
    """A fixed, indexable collection of examples.

    It may be sent to worker processes, so it must be picklable and must not draw random numbers.
    """

    image_shape: tuple[int, ...]  # (C, H, W) of pictures, or e.g. (2,) of points
    num_classes: int | None  # None without labels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """The examples at these indices (int64, on the CPU) and their labels (int64), if any.

        Pictures are uint8 (n, *image_shape); other data is float32 and used as it stands.
        """

    def check(self, indices: Tensor) -> None:
        """Raise the DataError that reading these would raise; worth overriding where that is cheaper."""
        self.read(indices)

    def held_out(self) -> "DataSource | None":
        """The examples that are kept for measuring and never trained on."""
        return None
