"""A set that is decoded once into one tensor, on the device if it fits there."""

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from toolkit.data.examples import Examples, Progress, Rows, in_slices
from toolkit.data.order import Order
from toolkit.data.source import DataSource


@final
class Memory(Examples):
    """All examples in one tensor; a batch is an index into it."""

    def __init__(self, source: DataSource, seed: int, device: torch.device, progress: Progress) -> None:
        self._images = torch.empty(0)
        self._labels: Tensor | None = None
        in_slices(source, lambda indices: self._keep(source, indices), "reading images", progress)
        try:
            self._images = self._images.to(device)
        except torch.OutOfMemoryError:
            device = self._images.device  # then only the batches travel
        self._labels = None if self._labels is None else self._labels.to(device)
        self._order = Order(len(source), seed, device)

    def rows(self, start: int, count: int) -> Rows:
        indices, mirrored = self._order.rows(start, count)
        labels = None if self._labels is None else self._labels[indices]
        # index_select: plain indexing wakes a thread pool for each batch, milliseconds on a busy machine.
        return Rows(self._images.index_select(0, indices), labels, mirrored)

    def plan(self, requests: Iterable[tuple[int, int]]) -> None:
        pass

    def close(self) -> None:
        pass

    def _keep(self, source: DataSource, indices: Tensor) -> None:
        images, labels = source.read(indices)
        if not len(self._images):  # allocated whole, in the type that the source turns out to have
            self._images = images.new_empty((len(source), *source.image_shape))
            self._labels = None if labels is None else labels.new_empty(len(source))
        self._images[indices] = images
        if self._labels is not None and labels is not None:
            self._labels[indices] = labels
