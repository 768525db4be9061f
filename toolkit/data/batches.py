"""Batches by position, as the trainer sees them."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from toolkit.data.reading import Examples, Memory, Progress, Reader, Rows, Stream, in_slices
from toolkit.data.source import Batch, DataSource, UnreadableImages, refuse_strange_labels, to_float
from toolkit.errors import DataError

AT_ONCE = 64  # images that are encoded together before training: an accelerator holds their activations


@dataclass(frozen=True)
class DataOptions:
    """Options that apply to the examples of every data source.

    Args:
        flip: mirror each image left to right with probability 1/2.
        in_memory_mb: size in MiB, as uint8, up to which a set is decoded into memory once; a larger one is
            read while training. Also the most that latents may take which an encoder caches.
        workers: processes that read a set that is not kept in memory; 0 reads in the trainer's process.
        on_error: what an example that cannot be read does: "stop" ends the run, "skip" names it and lets the
            next example that can be read take its place.
    """

    flip: bool = False
    in_memory_mb: Annotated[int, Field(ge=0)] = 2048
    workers: Annotated[int, Field(ge=0)] = 0
    on_error: Literal["stop", "skip"] = "stop"


def _silently(slices: Iterable[Tensor], description: str, total: int) -> Iterable[Tensor]:
    return slices


class Batches:
    """An endless sequence of examples, reshuffled every epoch, as a pure function of (seed, position).

    It has no state to save. Cutting the sequence into other batches, keeping the set in memory or not, and
    reading it with another number of workers change no bit of it.

    Args:
        device: where batches are put.
        encode: makes of images (n, *image_shape) on the device what batches have instead.
        cache: encode all examples at once, always the same ones together, so that a latent does not depend on
            its batch; mirrored examples are encoded too if `flip` is set.
        progress: wraps the passes over the whole set at the beginning, for a progress bar.

    Raises:
        DataError: if examples cannot be read, labels are no classes, `flip` is set for data that is not
            images, or latents that are to be kept exceed `in_memory_mb`.
    """

    def __init__(
        self,
        source: DataSource,
        options: DataOptions,
        *,
        seed: int,
        device: torch.device,
        progress: Progress | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        cache: bool = False,
    ) -> None:
        if options.flip and len(source.image_shape) != 3:
            raise DataError(
                f"flip mirrors images, but the examples have shape {source.image_shape}: set flip = false."
            )
        self._device, self._encode = device, encode
        self._flip, self._cached = options.flip, cache
        refuse_strange_labels(source.all_labels(), source.num_classes)
        reader, shown = Reader(source, skip=options.on_error == "skip"), progress or _silently
        if cache:
            size = len(source) * self._latents(reader.read(torch.arange(1)).images).nbytes / 2**20
            if size > options.in_memory_mb:
                raise DataError(
                    f"[encoder] cache = true keeps {size:.0f} MiB of latents, and data.in_memory_mb allows "
                    f"{options.in_memory_mb}: raise it, or leave cache out."
                )
            self._examples: Examples = Memory(reader, seed, device, shown, self._latents)
        elif len(source) * math.prod(source.image_shape) <= options.in_memory_mb * 2**20:
            self._examples = Memory(reader, seed, device, shown)
        else:
            unreadable: list[str] = []
            try:
                in_slices(source, source.check, "checking images", shown)
            except UnreadableImages as error:
                if options.on_error == "stop":
                    raise
                unreadable += error.names
            pin = device.type != "cpu"
            self._examples = Stream(reader, seed, unreadable, workers=options.workers, pin_memory=pin)

    @property
    def skipped(self) -> list[str]:
        """The examples that could not be read so far, by name; others stand in their places."""
        return list(self._examples.skipped)

    def at_hand(self) -> tuple[Tensor, Tensor | None]:
        """Images and labels as the source has them, in its order: all if in memory, else the first few."""
        return self._examples.at_hand()

    @property
    def place(self) -> str:
        """Where the examples are kept, in words."""
        return self._examples.place

    def plan(self, requests: Iterable[tuple[int, int]]) -> None:
        """Announce the (start, count) of coming calls of `get`, in order, so that they are read ahead."""
        self._examples.plan(requests)

    def get(self, start: int, count: int) -> Batch:
        """The examples at positions [start, start + count), float32 on the device; pictures are in [-1, 1].

        Raises:
            DataError: if one of them cannot be read.
        """
        return self.batch(self.read(start, count), start)

    def read(self, start: int, count: int) -> Rows:
        """The same examples as the source has them, which is all that can fail.

        Raises:
            DataError: if one of them cannot be read.
        """
        return self._examples.rows(start, count)

    def batch(self, rows: Rows, start: int) -> Batch:
        """The batch of rows that were read from position `start` on."""
        images, labels = self._take(rows.images), None if rows.labels is None else self._take(rows.labels)
        if self._cached:
            images, mirrored = images[:, 0], images[:, -1]
        else:
            mirrored = images.flip(-1) if self._flip else images
        if self._flip:
            chosen = self._take(rows.mirrored).view(-1, *[1] * (images.ndim - 1))
            images = torch.where(chosen, mirrored, images)
        if self._encode is not None and not self._cached:
            images = self._encoded(images)
        images = to_float(images)
        return Batch(images, labels, start)

    def _encoded(self, images: Tensor) -> Tensor:
        assert self._encode is not None
        with torch.no_grad():
            return self._encode(to_float(images))

    def _latents(self, images: Tensor) -> Tensor:
        """Latents (n, 1, ...) on the CPU of examples of the source; (n, 2, ...) with the mirrored ones'."""
        ways = [images, images.flip(-1)] if self._flip else [images]
        parts = [[self._encoded(part.to(self._device)).cpu() for part in way.split(AT_ONCE)] for way in ways]
        return torch.stack([torch.cat(part) for part in parts], dim=1)

    def close(self) -> None:
        """End the worker processes, if there are any."""
        self._examples.close()

    def _take(self, rows: Tensor) -> Tensor:
        """A copy on the device: a turn may change its batch in place, and another may ask for it again."""
        return rows.to(self._device, non_blocking=True, copy=True)
