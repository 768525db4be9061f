"""A set that is read while it is used; ahead of time, by other processes, where a plan is known."""

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import tee
from typing import final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from toolkit.data.examples import Examples, Rows
from toolkit.data.order import Order
from toolkit.data.source import DataSource
from toolkit.errors import DataError

REMEMBERED = 16  # requests: turns that share a batch ask for its micro-batches again

Request = tuple[int, int]  # start, count
Example = tuple[Tensor, Tensor | None]  # images, labels


@final
class Stream(Examples):
    """Planned requests are read ahead in their order; any other is read, as correctly, on the spot."""

    def __init__(self, source: DataSource, seed: int, *, workers: int, pin_memory: bool) -> None:
        self._reader = _Reader(source)
        self._order = Order(len(source), seed, torch.device("cpu"))
        self._workers = workers
        self._pin_memory = pin_memory
        self._planned: Iterator[Request]
        self._next: Request | None
        self._ahead: Iterator[Example | DataError]
        self._recent: dict[Request, Example]
        self.close()

    def rows(self, start: int, count: int) -> Rows:
        indices, mirrored = self._order.rows(start, count)
        return Rows(*self._read((start, count), indices), mirrored)

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
            # Its own, as a loader draws a number from the default one, and would change what a loss draws.
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
    """Launchers signal whole process groups; the trainer still needs its batches for the step it is in.

    Workers end when their parent does, which torch sees to.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _unread(requests: Iterable[Request]) -> Iterator[Request]:
    """The requests less those that will be among the recent ones when their time comes."""
    recent: deque[Request] = deque(maxlen=REMEMBERED)
    for request in requests:
        if request not in recent:
            recent.append(request)
            yield request


class _Reader(Dataset[Example | DataError]):
    """What runs in the workers."""

    def __init__(self, source: DataSource) -> None:
        self._source = source

    def __getitem__(self, indices: Tensor) -> Example | DataError:
        try:
            return self._source.read(indices)
        except DataError as error:
            return error  # raised here, it would arrive with a traceback in its message


def _examples(answer: Example | DataError) -> Example:
    if isinstance(answer, DataError):
        raise answer
    images, labels = answer
    return images, labels
