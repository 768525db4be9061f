"""Data sources, and the batches of their examples."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from toolkit.errors import DataError, printable


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
        refuse_strange_labels(self.read(indices)[1], self.num_classes)

    def all_labels(self) -> Tensor | None:
        """The labels of all examples, int64 (n,), if they are known without reading them; else None."""
        return None

    def notes(self) -> Sequence[str]:
        """A line for each thing that was left out, or that the user should know of what was found."""
        return ()

    def fingerprint(self) -> Mapping[str, str]:
        """Hashes by which the examples are known again without reading them.

        "sizes", e.g. of their files, must be the same when a run is resumed; other "times" are reported.
        """
        return {}

    def held_out(self) -> "DataSource | None":
        """The examples that are kept for measuring and never trained on; None if there are none."""
        return None


@final
class FirstRows(DataSource):
    """The first few examples of another source.

    Args:
        source: the other one.
        rows: how many.
    """

    def __init__(self, source: DataSource, rows: int = 64) -> None:
        self.image_shape, self.num_classes = source.image_shape, source.num_classes
        self.class_names = source.class_names
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return min(len(self._source), self._rows)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._source.read(indices)


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


def refuse_strange_labels(labels: Tensor | None, num_classes: int | None) -> None:
    """Raise a DataError unless labels (n,) are classes: networks look them up without asking."""
    if labels is None or num_classes is None or not len(labels):
        return
    low, high = (int(label) for label in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise DataError(
            f"labels run from {low} to {high}, but the data has {num_classes} classes, which are numbered 0 "
            f"to {num_classes - 1}."
        )


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return printable(", ".join(names[:limit])) + more


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 image`, `2 images`."""
    return f"1 {one}" if number == 1 else f"{number:,} {several or one + 's'}"


class UnreadableImages(DataError):
    """Pictures that cannot be decoded, all of them named, each with the reason in brackets."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)  # as args, so that it crosses process boundaries
        self.names = names

    def __str__(self) -> str:
        count, names = counted(len(self.names), "image"), listed(self.names)
        remedy = 'Repair or remove what is named here, or set data.on_error = "skip".'
        return f"{count} cannot be read: {names}. {remedy}"
