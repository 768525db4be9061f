"""Several processes of one group, forked from one that has imported what they need.

Imports take longer than tiny runs. Launchers themselves are tried in test_processes.py (accelerate launch),
test_nodes.py and test_evaluation_work.py (torchrun).
"""

import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training import loop
from toolkit.training.build import build


def prepare(*recipes: Path | str) -> None:
    """Import what runs by these recipes need, in one thread: a pool of threads does not survive a fork."""
    import accelerate  # noqa: F401

    torch.set_num_threads(1)
    loop.HELD_OUT_ROWS = 16  # as in conftest.py
    registry = plugins.load().registry
    for recipe in recipes:
        build(resolve(read_layers(recipe), registry), torch.device("cpu"))


def in_processes(count: int, work: Callable[[], object]) -> None:
    """Do `work` in so many processes, in a group as a launcher would form it; exit with 1 if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        running = {_forked(rank, count, store, work) for rank in range(count)}
        failed = False
        while running:
            process, status = os.wait()
            running.discard(process)
            if status and not failed:  # the others wait for it
                failed = True
                for other in running:
                    os.kill(other, signal.SIGKILL)
    if failed:
        sys.exit(1)


def _forked(rank: int, count: int, store: str, work: Callable[[], object]) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if count > 1:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ |= {name: str(number) for name, number in numbers.items()}
            os.environ["MASTER_ADDR"] = "localhost"  # nobody asks there: they meet in the file
            # One group for all that `work` does: Accelerate can form it only once.
            torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
        work()
        if count > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # whatever the parent would do at its own exit is not the child's
