"""The processes of a run or an evaluation, through Accelerate: rank, sum, gather, agreement."""

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePath
from typing import Literal, Self, TypeVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from toolkit.devices.launch import refuse_missing_trackers, refuse_unsupported_launch, world_size
from toolkit.errors import RunError, TrainingError

T = TypeVar("T")

MEET = timedelta(seconds=120)  # for all processes to start; imports on a busy disk take one
WAIT = timedelta(minutes=30)  # then, as one may have much to do alone, such as writing a large checkpoint

AGREE = 2.0  # seconds between two exchanges of processes on whether to stop

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]
Device = Literal["auto", "cpu"]  # "auto" takes the accelerator if there is one
Precision = Literal["auto", "float32", "bf16"]  # "auto" takes bf16 where the hardware computes in it
Sharding = Literal["fsdp"]


@dataclass(frozen=True)
class TrackerOptions:
    """Where metrics go besides metrics.jsonl, through Accelerate.

    Args:
        names: one of tensorboard, wandb, trackio, mlflow, or a list; their packages must be installed.
        project: the project's name there; for TensorBoard a folder in the run's trackers/.
    """

    names: Tracker | list[Tracker] = field(default_factory=list)
    project: str = "toolkit"

    @property
    def chosen(self) -> list[str]:
        """The names as a list, each once."""
        return list(dict.fromkeys([self.names] if isinstance(self.names, str) else self.names))

    def __post_init__(self) -> None:
        project = PurePath(self.project)
        if "tensorboard" in self.chosen and (project.is_absolute() or ".." in project.parts):
            raise ValueError(f"project {self.project!r} is a folder outside the run")


class Processes:
    """All processes, seen from this one; with a single process every method is almost free.

    Raises:
        RunError: for a launch or a tracker that would not do what was asked for.
    """

    def __init__(
        self,
        device: Device = "auto",
        precision: Precision = "float32",
        trackers: TrackerOptions | None = None,
        folder: Path | None = None,
        *,
        tf32: bool | None = None,
        cudnn_benchmark: bool | None = None,
    ) -> None:
        here = settled_device(device)
        self.precision = settled_precision(precision, here)
        refuse_unsupported_launch(self.precision)
        names = trackers.chosen if trackers is not None else []
        refuse_missing_trackers(names)
        # Whoever forms the process group ends it: a script of several runs forms one before the first.
        self._group_is_ours = not torch.distributed.is_initialized()
        from accelerate import Accelerator, InitProcessGroupKwargs  # here: recipes are read without, 0.3 s

        try:
            # Without an accelerator, Accelerate ignores the launcher unless told to use the CPU.
            self._accelerator = Accelerator(
                cpu=here.type == "cpu",
                mixed_precision="bf16" if self.precision == "bf16" else "no",
                log_with=names or None,
                project_dir=folder,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=MEET)],
            )
        except torch.distributed.DistError as error:
            raise RunError(
                f"the {world_size()} processes that the launcher states (WORLD_SIZE) have not all met at "
                f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} within {MEET.seconds} s: "
                f"one has ended, was not started, or cannot reach it. {' '.join(str(error).split())[:200]}"
            ) from None
        if self._group_is_ours and torch.distributed.is_initialized():
            torch.distributed.distributed_c10d._set_pg_timeout(WAIT)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.is_main = self.rank == 0
        self.grouped = torch.distributed.is_initialized()  # a launcher may form a group of one, too
        self._before = _cuda_switches()
        if self.device.type == "cuda":  # also ROCm; elsewhere the first would change what the CPU computes
            if tf32 is not None:
                _set_cuda_switches("high" if tf32 else "highest", tf32, torch.backends.cudnn.benchmark)
            if cudnn_benchmark is not None:
                torch.backends.cudnn.benchmark = cudnn_benchmark
        given = world_size()
        if given != self.count:
            raise RunError(
                f"the launcher states {given} processes (WORLD_SIZE), but they do not see each other: "
                f"Accelerate counts {self.count}. Launch with torchrun or accelerate launch --multi_gpu"
            )

    def alone(self) -> Self:
        """This process as if there were no others."""
        one = copy.copy(self)
        one.rank, one.count, one.is_main = 0, 1, True
        return one

    def computes(self) -> dict[str, object]:
        """The device, and how it computes: for the records of a run."""
        if self.device.type != "cuda":
            return {"device": self.device.type, "precision": self.precision}
        matmul, convolutions, benchmark = _cuda_switches()
        return {
            "device": torch.cuda.get_device_name(self.device),
            "precision": self.precision,
            "tf32": matmul != "highest" and convolutions,
            "cudnn_benchmark": benchmark,
        }

    def autocast(self) -> AbstractContextManager[object]:
        """A context for forward passes in the recipe's precision."""
        context: AbstractContextManager[object] = self._accelerator.autocast()
        return context

    def float32(self) -> AbstractContextManager[object]:
        """A context for float32 inside `autocast`."""
        return torch.autocast(self.device.type, enabled=False)

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """A context without gradient that leaves no cast weights behind.

        autocast caches the bf16 copies of weights that need a gradient. Copies made under plain no_grad would
        serve the next forward pass too, which would then silently give those weights no gradient.
        """
        kind = self.device.type
        with torch.no_grad():
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False):
                    yield
            else:
                yield

    def add_(self, tensor: Tensor) -> None:
        """Replace a tensor, in place, by its sum over all processes."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)  # Accelerate's `reduce` would sum a copy

    def gather(self, tensor: Tensor) -> Tensor:
        """A tensor that has the same shape on all processes, stacked in order of rank: (count, *shape)."""
        if self.count == 1:
            return tensor[None]
        from accelerate.utils import gather

        gathered: Tensor = gather(tensor[None])
        return gathered

    def of_main(self, value: T) -> T:
        """The main process's value, on all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values: list[T] = broadcast_object_list([value])
        return values[0]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Copy the main process's tensors to all, in place."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.data.copy_(broadcast(tensor.data))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.count == 1:
            return flag
        return bool(self.gather(torch.tensor(float(flag), device=self.device)).any())

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives, done on every process; a failure on one stops all, and leaves none waiting.

        Raises:
            Exception: the one that `work` raised here; a RunError if it failed on another process only.
        """
        done: list[T] = []
        failure: Exception | None = None
        try:
            done.append(work())
        except Exception as error:  # a bug, too, must not leave the others waiting
            failure = error
        if self.any(failure is not None):
            raise failure or RunError("another process has given up, and says why")
        return done[0]

    def on_main(self, work: Callable[[], None]) -> None:
        """Do `work` on the main process only; all processes wait for it, and fail if it fails."""
        self.together(work if self.is_main else lambda: None)

    def must_agree(self, states: Mapping[str, Sequence[Tensor]]) -> None:
        """Check that tensors have the same bits on all processes.

        Raises:
            TrainingError: naming the first state that differs.
        """
        if self.count == 1:
            return
        sums = [_checksum(tensors) for tensors in states.values()]
        gathered = self.gather(torch.stack([one.to(self.device) for one in sums]))
        for i, role in enumerate(states):
            if bool((gathered[:, i] != gathered[0, i]).any()):
                raise TrainingError(
                    f"the state of {role!r} differs between processes: something in its turn draws from a "
                    "generator of its own, or `observe` does not do the same everywhere"
                )

    def start_trackers(self, project: str, config: dict[str, object]) -> None:
        """Start the trackers, on every process.

        Raises:
            RunError: if one of them refuses.
        """

        def start() -> None:
            try:
                self._accelerator.init_trackers(project, config)
            except Exception as error:  # theirs: no login, no server, ...
                raise RunError(f"[trackers] cannot be started: {' '.join(str(error).split())}") from error

        self.together(start)

    def track(self, logs: dict[str, float], step: int) -> None:
        """Hand values to the trackers."""
        self._accelerator.log(logs, step=step)

    def track_pictures(self, pictures: Mapping[str, Image], step: int) -> None:
        """Hand pictures to the trackers that take some; by the main process alone."""
        for tracker in self._accelerator.trackers:
            if not callable(show := getattr(tracker, "log_images", None)):
                continue  # Accelerate has it for TensorBoard and W&B
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            show(
                {name: np.asarray(one.convert("RGB"))[None] for name, one in pictures.items()}, step, **layout
            )

    def barrier(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Leave the process group; gloo sometimes aborts at exit if that is left to the interpreter.

        After an error the others may never arrive, so only a clean end waits for them.
        """
        if kind is None:
            for tracker in self._accelerator.trackers:
                tracker.finish()
            self.barrier()
        if self._group_is_ours and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        _set_cuda_switches(*self._before)
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # another run may follow in this process


def _cuda_switches() -> tuple[str, bool, bool]:
    """Global switches: float32 matrix products, TF32 in convolutions, timing of convolution kernels.

    By torch's older names: torch.compile reads those, and refuses a mixture with the newer ones.
    """
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark


def _set_cuda_switches(matmul: str, convolutions: bool, benchmark: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions, benchmark


def settled_device(device: Device) -> torch.device:
    """The CPU, or for "auto" the accelerator if there is one."""
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if device == "cpu" or there is None else there


def settled_precision(precision: Precision, device: torch.device) -> Literal["float32", "bf16"]:
    """The precision itself, or for "auto" bf16 if the device computes in it, else float32."""
    if precision != "auto":
        return precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "float32"


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on the one device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def _checksum(tensors: Sequence[Tensor]) -> Tensor:
    """A scalar int64 checksum of the bytes of all tensors, in order."""
    total = torch.zeros((), dtype=torch.int64)
    for tensor in tensors:
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        total = total.to(content.device) * 31 + content.sum(dtype=torch.int64)
    return total


class Agreement:
    """Whether the run is over, the same on every process.

    One process need not ask. Several ask each other every few steps, so many that they take about `AGREE`
    seconds on the slowest: asking every step would stall a GPU, and a fixed number may be minutes on a CPU.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._next = 0  # the step before which they ask again
        self._asked = (time.monotonic(), 0)

    def over(self, number: int, here: bool) -> bool:
        """Whether the run is over before step `number` on any process; `here`: on this one."""
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
