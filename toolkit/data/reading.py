"""Data sets in use: kept in memory, or read ahead of time by other processes."""

import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.data.order import Order
from toolkit.data.source import DataSource, UnreadableImages, refuse_strange_labels
from toolkit.errors import DataError

# Ctrl-C, what ends a service or a session, and what schedulers send before the time is up.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

FEW = 64  # examples that stand for all, where reading all of them is dear

SLICE = 1024  # examples at a time: enough to make reading cheap, few enough for a lively progress bar

Progress = Callable[[Iterable[Tensor], str, int], Iterable[Tensor]]  # (iterable, description, total)


class Rows(NamedTuple):
    """Examples as their source gives them, on any device; they must not be changed in place."""

    images: Tensor  # uint8 or float32 (B, *image_shape), or as they were prepared
    labels: Tensor | None  # int64 (B,)
    mirrored: Tensor  # bool (B,): to be mirrored, if `flip` is set


class Examples(ABC):
    """The endless sequence of examples, by position.

    Attributes:
        place: where they are kept, in words.
        skipped: names of the examples that could not be read and were replaced, so far, as keys.
    """

    place: str
    skipped: dict[str, None]

    @abstractmethod
    def at_hand(self) -> tuple[Tensor, Tensor | None]:
        """Images and labels in the order of the source: all that are in memory, or the first `FEW`."""

    @abstractmethod
    def rows(self, start: int, count: int) -> Rows:
        """The examples at positions [start, start + count)."""

    @abstractmethod
    def plan(self, requests: Iterable[tuple[int, int]]) -> None:
        """Announce the coming calls of `rows`; there may be endlessly many."""

    @abstractmethod
    def close(self) -> None:
        """Forget the plan, and end the processes that work on it."""


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


class Example(NamedTuple):
    """Examples as they are read, and the names of those that could not be read and were replaced."""

    images: Tensor
    labels: Tensor | None
    skipped: tuple[str, ...] = ()


@final
class Reader(Dataset[Example | DataError]):
    """Reads examples, here or in the workers.

    Args:
        skip: let the next readable example take the place of one that cannot be read, so that which example
            stands at a position depends on the data alone.
    """

    def __init__(self, source: DataSource, *, skip: bool) -> None:
        self.source, self._skip = source, skip

    def read(self, indices: Tensor) -> Example:
        try:
            return Example(*self.source.read(indices))
        except UnreadableImages:
            if not self._skip:
                raise
        each = [self._readable(index) for index in indices.tolist()]
        images = torch.cat([one.images for one in each])
        labels = [one.labels for one in each if one.labels is not None]
        return Example(images, torch.cat(labels) if labels else None, sum((one.skipped for one in each), ()))

    def _readable(self, index: int) -> Example:
        """The example at an index, or the next one that can be read."""
        own: tuple[str, ...] = ()
        for step in range(len(self.source)):
            try:
                images, labels = self.source.read(torch.tensor([(index + step) % len(self.source)]))
                return Example(images, labels, own)
            except UnreadableImages as error:
                own = own or tuple(error.names)
        raise UnreadableImages(own)

    def few(self) -> Example:
        """The first `FEW` examples."""
        return self.read(torch.arange(min(FEW, len(self.source))))

    def __getitem__(self, indices: Tensor) -> Example | DataError:
        try:
            return self.read(indices)
        except DataError as error:
            return error  # raised here, it would arrive with a traceback in its message


@final
class Memory(Examples):
    """All examples, or what `prepare` makes of them, in one tensor; a batch is an index into it."""

    def __init__(
        self,
        reader: Reader,
        seed: int,
        device: torch.device,
        progress: Progress,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        source = reader.source
        self._reader, self._prepare = reader, prepare
        self._images = torch.empty(0)
        self._labels: Tensor | None = None
        self.skipped = {}
        doing = "reading images" if prepare is None else "encoding images"
        in_slices(source, lambda indices: self._keep(reader, indices), doing, progress)
        refuse_strange_labels(self._labels, source.num_classes)
        try:
            self._images = self._images.to(device)
        except torch.OutOfMemoryError:
            device = self._images.device  # then only batches are moved to it
        self._labels = None if self._labels is None else self._labels.to(device)
        self._order = Order(len(source), seed, device)
        self.place = f"in memory ({device.type})"

    def rows(self, start: int, count: int) -> Rows:
        indices, mirrored = self._order.rows(start, count)
        labels = None if self._labels is None else self._labels[indices]
        # index_select: plain indexing wakes a thread pool for each batch, milliseconds on a busy machine.
        return Rows(self._images.index_select(0, indices), labels, mirrored)

    def at_hand(self) -> tuple[Tensor, Tensor | None]:
        return (self._images, self._labels) if self._prepare is None else self._reader.few()[:2]

    def plan(self, requests: Iterable[tuple[int, int]]) -> None:
        pass

    def close(self) -> None:
        pass

    def _keep(self, reader: Reader, indices: Tensor) -> None:
        images, labels, skipped = reader.read(indices)
        self.skipped |= dict.fromkeys(skipped)
        images = images if self._prepare is None else self._prepare(images)
        if not len(self._images):  # allocated once, in the dtype and shape that they turn out to have
            self._images = images.new_empty((len(reader.source), *images.shape[1:]))
            self._labels = None if labels is None else labels.new_empty(len(reader.source))
        self._images[indices] = images
        if self._labels is not None and labels is not None:
            self._labels[indices] = labels


REMEMBERED = 16  # requests: turns that share a batch ask for its micro-batches again

Request = tuple[int, int]  # start, count


@final
class Stream(Examples):
    """Reads planned requests ahead, in their order, and any other, just as correctly, on the spot."""

    place = "read while training"

    def __init__(
        self, reader: Reader, seed: int, skipped: Iterable[str], *, workers: int, pin_memory: bool
    ) -> None:
        self._reader = reader
        self.skipped = dict.fromkeys(skipped)
        self._order = Order(len(reader.source), seed, torch.device("cpu"))
        self._workers = workers
        self._pin_memory = pin_memory
        self._planned: Iterator[Request]
        self._next: Request | None
        self._ahead: Iterator[Example | DataError]
        self._recent: dict[Request, Example]
        self.close()

    def rows(self, start: int, count: int) -> Rows:
        indices, mirrored = self._order.rows(start, count)
        images, labels, skipped = self._read((start, count), indices)
        self.skipped |= dict.fromkeys(skipped)
        return Rows(images, labels, mirrored)

    def at_hand(self) -> tuple[Tensor, Tensor | None]:
        images, labels, skipped = self._reader.few()
        self.skipped |= dict.fromkeys(skipped)
        return images, labels

    def plan(self, requests: Iterable[Request]) -> None:
        self.close()
        self._planned, ahead = tee(_unread(requests))
        loader = DataLoader(
            self._reader,
            sampler=(self._order.rows(*request)[0] for request in ahead),
            batch_size=None,
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            worker_init_fn=_outlive_stop_signals,
            # Its own: a loader draws a number from the default one, which would change what a loss draws.
            generator=torch.Generator(),
        )
        self._ahead = iter(loader)
        self._next = next(self._planned, None)

    def close(self) -> None:
        self._planned = iter(())
        self._next = None
        self._ahead = iter(())  # the loader's workers end with its iterator
        self._recent = {}

    def _read(self, request: Request, indices: Tensor) -> Example:
        if request in self._recent:
            return self._recent[request]
        if request != self._next:
            return _examples(self._reader[indices])
        self._next = next(self._planned, None)
        self._recent[request] = _examples(next(self._ahead))
        if len(self._recent) > REMEMBERED:
            del self._recent[next(iter(self._recent))]
        return self._recent[request]


def _outlive_stop_signals(worker: int) -> None:
    """Ignore stop signals: launchers send them to whole process groups, but this step needs its batches.

    Workers end when their parent does; torch sees to that.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _unread(requests: Iterable[Request]) -> Iterator[Request]:
    """The requests without those that will still be remembered when their turn comes."""
    recent: deque[Request] = deque(maxlen=REMEMBERED)
    for request in requests:
        if request not in recent:
            recent.append(request)
            yield request


def _examples(answer: Example | DataError) -> Example:
    if isinstance(answer, DataError):
        raise answer
    return answer
