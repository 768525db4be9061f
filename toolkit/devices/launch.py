"""How a run is started, where some ways would not do what was asked for, and how it is asked to stop."""

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from toolkit.data.reading import STOP_SIGNALS
from toolkit.errors import RunError

AGAIN = 1.0  # seconds: torchrun repeats the Ctrl-C that the terminal has already sent to every process

ONE_PROCESS_FOR_CPU = (
    "accelerate launch --cpu starts one process whatever --num_processes says (several need mpirun there). "
    "For two CPU processes use: torchrun --nproc_per_node 2 -m toolkit train ..."
)

IN_PARTS = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
}


def refuse_unsupported_launch(precision: str) -> None:
    """Refuse launches that would not do what was asked for, before any process group is formed.

    Raises:
        RunError: for the launcher's own FSDP, DeepSpeed and Megatron-LM; for another precision than the
            recipe's; for several processes that cannot find each other; and for the one process of
            `accelerate launch --cpu`.
    """
    yes = {name for name, value in os.environ.items() if value.lower() in ("1", "true", "yes")}
    for name, flag in IN_PARTS.items():
        if name in yes:
            raise RunError(
                f"launched with {flag}: whether networks lie in parts is the recipe's to say. Launch without "
                'it, and set run.sharding = "fsdp"'
            )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("", "no", precision):
        raise RunError(
            f"launched with --mixed_precision {launched}, but run.precision is {precision!r}: set it there"
        )
    given, absent = world_size(), {"RANK", "MASTER_ADDR"} - set(os.environ)
    if given > 1 and absent:
        raise RunError(
            f"the launcher states {given} processes (WORLD_SIZE), but not how they find each other: "
            f"{' and '.join(sorted(absent))} is not set. Launch with torchrun or accelerate launch"
        )
    if "ACCELERATE_USE_CPU" in yes and "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
        raise RunError(ONE_PROCESS_FOR_CPU)


def world_size() -> int:
    """The number of processes that the launcher states.

    Raises:
        RunError: if what it has set for a process is not a number.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise RunError(f"the environment variable {name} is {value!r}, and must be a whole number")
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing: Accelerate leaves them out, with a warning at most.

    Raises:
        RunError: naming the first one.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RunError(
                f"[trackers] names has {name!r}, but its package is not installed: pip install {name}"
            )


class Stopped(KeyboardInterrupt):
    """A signal that ended a run where it was."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stop:
    """The signal that asked a run to stop.

    While the run trains, it is noted and answered at once, and the run stops after the step. At other times
    it interrupts, as does a later Ctrl-C.

    Attributes:
        number: of the first signal; None if there was none.
    """

    def __init__(self, answer: str) -> None:
        self.number: int | None = None
        self._answer, self._gentle, self._first = answer, False, 0.0

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Note signals instead of interrupting the block."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    def note(self, number: int, frame: FrameType | None) -> None:
        first = self.number is None
        if first:
            self.number, self._first = number, time.monotonic()
        if not first and (number != signal.SIGINT or time.monotonic() - self._first < AGAIN):
            return
        if not (first and self._gentle):
            raise Stopped(number)
        if self._answer:
            with suppress(OSError):  # not by print, which may be what the signal interrupted
                os.write(2, f"\n{signal.Signals(number).name}: {self._answer}\n".encode())


@contextmanager
def stop_signals(answer: str) -> Iterator[Stop]:
    """Watch the signals, except those that the caller ignores, as `nohup` does; only a main thread can.

    Args:
        answer: to a signal while the run trains, on stderr; "" says nothing.
    """
    stop = Stop(answer)
    numbers = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
    # None is a handler that Python did not install, and could not put back.
    watched = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop.note) for number in watched}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
