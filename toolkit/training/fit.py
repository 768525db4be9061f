"""The micro-batch that fits into the memory of a device, found before a run by trying."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from toolkit.data.source import FirstRows
from toolkit.devices.processes import Processes
from toolkit.errors import RunError, out_of_memory
from toolkit.recipe import Recipe
from toolkit.training.session import session
from toolkit.training.trainer import RunOptions

STEPS = 2  # the optimizers' state exists from the end of the first on


def fitting_micro_batch(recipe: Recipe, options: RunOptions, processes: Processes) -> int:
    """The largest micro-batch with which two steps fit into memory on every process.

    From the whole share of a process downwards, at least halved each time. Each trial builds everything anew
    and throws it away, so that nothing of it is left in the run. On a CPU, where memory ends in swapping or
    a kill rather than in an error, it is the whole share, untried.

    Raises:
        RunError: if not even one example fits, or if a trial failed otherwise on another process.
    """
    whole = max(1, options.batch_size // processes.count)
    if processes.device.type == "cpu":
        return whole
    found = largest(whole, partial(fits_on_all, recipe, options, processes))
    if found is None:
        raise RunError(f"[run] not even one example at a time fits into memory. {relief(recipe)}")
    return found


def largest(whole: int, fits: Callable[[int], bool]) -> int | None:
    """The first size that fits of `whole` and its divisors, each at most half of the one before."""
    size = whole
    while not fits(size):
        if size == 1:
            return None
        size = next(smaller for smaller in range(size // 2, 0, -1) if whole % smaller == 0)
    return size


def fits_on_all(recipe: Recipe, options: RunOptions, processes: Processes, size: int) -> bool:
    """Whether every process can take two steps with micro-batches of that size; a failure on one ends all."""
    here = processes.together(partial(fits, recipe, options, processes, size))
    return not processes.any(not here)


def fits(recipe: Recipe, options: RunOptions, processes: Processes, size: int) -> bool:
    """Whether this process, alone, can take two steps with micro-batches of that size."""
    trial = replace(options, batch_size=size, micro_batch_size=size)
    try:
        with session(recipe, processes.alone(), trial, narrowed=lambda s: FirstRows(s, 2 * size)) as ready:
            for _ in range(STEPS):
                ready.trainer.step()
        return True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
        if processes.device.type != "cpu":
            torch.accelerator.memory.empty_cache()


def relief(recipe: Recipe) -> str:
    """What of a recipe would take less memory, as a sentence."""
    run, ways = recipe.tables["run"], []
    if (micro := run["micro_batch_size"] or run["batch_size"]) not in (1, "auto"):
        tried = ', or "auto", which tries' if run["sharding"] is None else ""
        ways.append(f"[run] micro_batch_size below {micro}{tried}")
    roles = [r for r, table in recipe.tables["networks"].items() if not table["checkpoint_activations"]]
    if roles:
        ways.append(f"checkpoint_activations = true in {', '.join(f'[networks.{role}]' for role in roles)}")
    if run["precision"] == "float32":
        ways.append('[run] precision = "bf16"')
    if run["sharding"] is None:
        ways.append('[run] sharding = "fsdp" with several processes')
    return "Less memory take: " + "; ".join(ways) + "."
