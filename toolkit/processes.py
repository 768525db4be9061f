"""The processes of a run or an evaluation, through Accelerate: who am I, add, gather, agree."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, gather
from torch import Tensor, nn

from toolkit.errors import RunError, ToolkitError, TrainingError
from toolkit.options import ComputeOptions, RunOptions, TrackerOptions

ONE_PROCESS_FOR_CPU = (
    "accelerate launch --cpu starts one process whatever --num_processes says (several need mpirun there). "
    "For two CPU processes use: torchrun --nproc_per_node 2 -m toolkit train ..."
)

SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


class Processes:
    """All processes, one of them this one; with one process every method is almost free."""

    def __init__(
        self,
        options: RunOptions | ComputeOptions,
        trackers: TrackerOptions | None = None,
        folder: Path | None = None,
    ) -> None:
        on_cpu = options.device == "cpu" or not torch.accelerator.is_available()
        refuse_unsupported_launch(options.precision)
        names = list(trackers.names) if trackers is not None else []
        refuse_missing_trackers(names)
        # Whoever forms the process group ends it: a script of several runs forms one before the first.
        self._group_is_ours = not torch.distributed.is_initialized()
        # Without an accelerator Accelerate ignores the launcher, unless it is told that the CPU is meant.
        self._accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="bf16" if options.precision == "bf16" else "no",
            log_with=names or None,
            project_dir=folder,
        )
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.is_main = self.rank == 0
        stated = int(os.environ.get("WORLD_SIZE", "1"))
        if stated != self.count:
            raise RunError(
                f"the launcher states {stated} processes (WORLD_SIZE), but they do not see each other: "
                f"Accelerate counts {self.count}. Launch with torchrun or accelerate launch --multi_gpu"
            )

    def autocast(self) -> AbstractContextManager[object]:
        """The precision that the recipe asks for."""
        context: AbstractContextManager[object] = self._accelerator.autocast()
        return context

    def float32(self) -> AbstractContextManager[object]:
        """Full precision inside `autocast`."""
        return torch.autocast(self.device.type, enabled=False)

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """No gradient, and no weights cast for it left behind.

        autocast keeps the bf16 copies of weights that need a gradient; copies made under plain no_grad would
        serve the next forward pass too, which then silently gives those weights no gradient.
        """
        kind = self.device.type
        with torch.no_grad():
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False):
                    yield
            else:
                yield

    def add_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.count > 1:
            tensor.copy_(self._accelerator.reduce(tensor, "sum"))

    def gather(self, tensor: Tensor) -> Tensor:
        """(count, *shape) of a tensor that has the same shape everywhere, in order of ranks."""
        if self.count == 1:
            return tensor[None]
        gathered: Tensor = gather(tensor[None])
        return gathered

    def broadcast_state(self, networks: Sequence[nn.Module], *, buffers_only: bool = False) -> None:
        """Give every process the main one's parameters and buffers."""
        if self.count == 1:
            return
        for network in networks:
            state = [*network.buffers()] if buffers_only else [*network.parameters(), *network.buffers()]
            for tensor in state:
                tensor.data.copy_(broadcast(tensor.data))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.count == 1:
            return flag
        return bool(self.gather(torch.tensor(float(flag), device=self.device)).any())

    def together(self, work: Callable[[], None]) -> None:
        """Do something on every process; what stops one of them stops all, instead of leaving them waiting.

        Raises:
            ToolkitError: what `work` raised here, or a word that another process has said why.
        """
        failure: ToolkitError | None = None
        try:
            work()
        except ToolkitError as error:
            failure = error
        if self.any(failure is not None):
            raise failure or RunError("another process has given up, and says why")

    def on_main(self, work: Callable[[], None]) -> None:
        """Do something on the main process; all processes wait for it, and fail with it."""
        self.together(work if self.is_main else lambda: None)

    def must_agree(self, networks: dict[str, nn.Module]) -> None:
        """Check that parameters and buffers are the same bits everywhere.

        Raises:
            TrainingError: naming what drifted apart.
        """
        if self.count == 1:
            return
        sums = [_checksum(network) for network in networks.values()]
        gathered = self.gather(torch.stack([one.to(self.device) for one in sums]))
        for i, role in enumerate(networks):
            if bool((gathered[:, i] != gathered[0, i]).any()):
                raise TrainingError(
                    f"the state of {role!r} differs between processes: something in its turn draws from a "
                    "generator of its own, or `observe` does not do the same everywhere"
                )

    def start_trackers(self, project: str, config: dict[str, object]) -> None:
        def start() -> None:
            try:
                self._accelerator.init_trackers(project, config)
            except Exception as error:  # theirs: no login, no server, ...
                raise RunError(f"[trackers] cannot be started: {' '.join(str(error).split())}") from error

        self.together(start)

    def track(self, logs: dict[str, float], step: int) -> None:
        self._accelerator.log(logs, step=step)

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def close(self, *, cleanly: bool) -> None:
        """Leave the group; gloo aborts at exit, sometimes, if it is left to the interpreter.

        After an error the others may never arrive, so only a clean end waits for them.
        """
        if cleanly:
            for tracker in self._accelerator.trackers:
                tracker.finish()
            self.barrier()
        if self._group_is_ours and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)  # another run may follow in this process


def refuse_unsupported_launch(precision: str) -> None:
    """Explain launches that would not do what was asked for, before any process group is formed.

    Raises:
        RunError: for FSDP, DeepSpeed and Megatron-LM, for another precision than the recipe's, and if
            `accelerate launch --cpu` started one process.
    """
    yes = {name for name, value in os.environ.items() if value.lower() in ("1", "true", "yes")}
    for name, what in SHARDED.items():
        if name in yes:
            raise RunError(f"launched with {what}: only plain data parallelism is supported so far")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("", "no", precision):
        raise RunError(
            f"launched with --mixed_precision {launched}, but run.precision is {precision!r}: set it there"
        )
    stated, absent = int(os.environ.get("WORLD_SIZE", "1")), {"RANK", "MASTER_ADDR"} - set(os.environ)
    if stated > 1 and absent:
        raise RunError(
            f"the launcher states {stated} processes (WORLD_SIZE), but not how they find each other: "
            f"{' and '.join(sorted(absent))} is not set. Launch with torchrun or accelerate launch"
        )
    if "ACCELERATE_USE_CPU" in yes and "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
        raise RunError(ONE_PROCESS_FOR_CPU)


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """Accelerate leaves out a tracker whose package is missing, with a warning at most.

    Raises:
        RunError: naming it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RunError(
                f"[trackers] names has {name!r}, but its package is not installed: pip install {name}"
            )


@torch.no_grad()
def _checksum(network: nn.Module) -> Tensor:
    """An integer over the bytes of all parameters and buffers, in which any difference of one shows."""
    total = torch.zeros((), dtype=torch.int64)
    for tensor in (*network.parameters(), *network.buffers()):
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        total = total.to(content.device) * 31 + content.sum(dtype=torch.int64)
    return total
