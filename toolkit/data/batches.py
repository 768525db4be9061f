"""Batches by position: what the trainer sees of data."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from toolkit.data.batch import Batch
from toolkit.data.examples import Examples, Progress, in_slices
from toolkit.data.memory import Memory
from toolkit.data.source import DataSource
from toolkit.data.stream import Stream
from toolkit.errors import DataError
from toolkit.options import DataOptions


def _silently(slices: Iterable[Tensor], description: str, total: int) -> Iterable[Tensor]:
    return slices


class Batches:
    """An endless sequence of examples, reshuffled every epoch, as a pure function of (seed, position).

    Nothing of it needs saving, and cutting the sequence into other batches, keeping the set in memory or not,
    or reading it with other numbers of workers changes no bit of it.
    """

    def __init__(
        self,
        source: DataSource,
        options: DataOptions,
        *,
        seed: int,
        device: torch.device,
        progress: Progress | None = None,
    ) -> None:
        if options.flip and len(source.image_shape) != 3:
            raise DataError(
                f"flip mirrors images, but the examples have shape {source.image_shape}: set flip = false."
            )
        self._device = device
        self._flip = options.flip
        if len(source) * math.prod(source.image_shape) <= options.in_memory_mb * 2**20:
            self._examples: Examples = Memory(source, seed, device, progress or _silently)
        else:
            in_slices(source, source.check, "checking images", progress or _silently)
            self._examples = Stream(source, seed, workers=options.workers, pin_memory=device.type != "cpu")

    def plan(self, requests: Iterable[tuple[int, int]]) -> None:
        """Announce the (start, count) that `get` will be asked for, in order, so that they are read ahead."""
        self._examples.plan(requests)

    def get(self, start: int, count: int) -> Batch:
        """The examples at positions [start, start + count)."""
        rows = self._examples.rows(start, count)
        images, labels = self._take(rows.images), None if rows.labels is None else self._take(rows.labels)
        if self._flip:
            images = torch.where(self._take(rows.mirrored).view(-1, 1, 1, 1), images.flip(-1), images)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32).div_(127.5).sub_(1)
        return Batch(images, labels, start)

    def close(self) -> None:
        """End the worker processes, if there are any."""
        self._examples.close()

    def _take(self, rows: Tensor) -> Tensor:
        """On the device, and a copy: a turn may change its batch in place, another ask for it again."""
        return rows.to(self._device, non_blocking=True, copy=True)
