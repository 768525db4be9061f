"""Asking a run to stop, and agreeing on it."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from toolkit.processes import Processes

AGAIN = 1.0  # seconds: torchrun passes on the Ctrl-C that a terminal has already sent to everyone

AGREE = 2.0  # seconds between two times that processes ask each other whether to stop


class Agreement:
    """Whether the run is over, the same on every process.

    One process need not ask. Several ask each other every few steps, as many as take about `AGREE` seconds on
    the slowest: asking at every one would make a GPU wait, and a fixed number may be minutes on a CPU.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._next = 0  # the step before which they ask again
        self._asked = (time.monotonic(), 0)

    def over(self, number: int, here: bool) -> bool:
        """Whether any process says that the run is over before step `number`; `here` says this one."""
        if self._processes.count == 1:
            return here
        if number < self._next:
            return False
        now, (then, before) = time.monotonic(), self._asked
        pace = (now - then) / max(1, number - before)
        answers = self._processes.gather(torch.tensor([float(here), pace], device=self._processes.device))
        slowest = float(answers[:, 1].max())
        self._asked = (now, number)
        self._next = number + (min(100, max(1, int(AGREE / max(slowest, 1e-6)))) if before else 1)
        return bool(answers[:, 0].any())


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The first SIGTERM or Ctrl-C is noted in the list; a later Ctrl-C interrupts at once."""
    received: list[int] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
        elif number == signal.SIGINT and time.monotonic() - first > AGAIN:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
