"""Refuses ways of starting a run that would not do what was asked for, before a process group forms."""

import importlib.util
import os
from collections.abc import Sequence

from toolkit.errors import RunError

ONE_PROCESS_FOR_CPU = (
    "accelerate launch --cpu starts one process whatever --num_processes says (several need mpirun there). "
    "For two CPU processes use: torchrun --nproc_per_node 2 -m toolkit train ..."
)

SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def refuse_unsupported_launch(precision: str) -> None:
    """Refuse launches that would not do what was asked for, before any process group is formed.

    Raises:
        RunError: for FSDP, DeepSpeed and Megatron-LM; for another precision than the recipe's; for several
            processes that cannot find each other; and for the one process of `accelerate launch --cpu`.
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
    given, absent = int(os.environ.get("WORLD_SIZE", "1")), {"RANK", "MASTER_ADDR"} - set(os.environ)
    if given > 1 and absent:
        raise RunError(
            f"the launcher states {given} processes (WORLD_SIZE), but not how they find each other: "
            f"{' and '.join(sorted(absent))} is not set. Launch with torchrun or accelerate launch"
        )
    if "ACCELERATE_USE_CPU" in yes and "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
        raise RunError(ONE_PROCESS_FOR_CPU)


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
