"""How a set is held while it is used: the two ways share one interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.data.pictures import UnreadableImages
from toolkit.data.source import DataSource

SLICE = 1024  # examples at a time: enough to make reading cheap, few enough for a lively progress bar

Progress = Callable[[Iterable[Tensor], str, int], Iterable[Tensor]]  # (iterable, description, total)


class Rows(NamedTuple):
    """Examples as their source gives them; on any device, and not to be changed in place."""

    images: Tensor  # uint8 or float32 (B, *image_shape)
    labels: Tensor | None  # int64 (B,)
    mirrored: Tensor  # bool (B,): to be mirrored, if that is wanted


class Examples(ABC):
    """The endless sequence of examples, by position."""

    @abstractmethod
    def rows(self, start: int, count: int) -> Rows:
        """The examples at positions [start, start + count)."""

    @abstractmethod
    def plan(self, requests: Iterable[tuple[int, int]]) -> None:
        """What `rows` will be asked for from now on; may be endless."""

    @abstractmethod
    def close(self) -> None:
        """Forget the plan, and end what works on it."""


def in_slices(
    source: DataSource, act: Callable[[Tensor], None], description: str, progress: Progress
) -> None:
    """Act on the indices of all examples, a slice at a time; report the unreadable ones together."""
    slices = torch.split(torch.arange(len(source)), SLICE)
    unreadable: list[str] = []
    for indices in progress(slices, description, len(slices)):
        try:
            act(indices)
        except UnreadableImages as error:
            unreadable.extend(error.names)
    if unreadable:
        raise UnreadableImages(unreadable)
