"""How long a step of training takes, of several recipes in turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch

from toolkit.data.source import FirstRows
from toolkit.devices.processes import Processes, settled_device, settled_precision
from toolkit.errors import RunError
from toolkit.recipe import Recipe
from toolkit.training.session import session
from toolkit.training.trainer import RunOptions, Trainer

WARM_UP = 3  # steps: the first ones allocate, and choose kernels


def step_seconds(
    recipes: Mapping[str, Recipe],
    turns: int = 20,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Seconds of a step of each recipe on this machine: the median over turns, in which all take a step.

    On a CPU it is processor time of all threads together, which does not count what else the machine does; on
    an accelerator it is time on the clock.

    Args:
        recipes: by name.
        turns: that count.
        progress: called with how many turns are done, and of how many.

    Raises:
        ToolkitError: for every mistake in a recipe or its data.
    """
    asked: list[RunOptions] = [recipe.common(("run",)) for recipe in recipes.values()]
    precisions = {settled_precision(run.precision, settled_device(run.device)) for run in asked}
    if len(precisions) > 1:  # one process has one
        raise RunError(
            f"steps in {' and '.join(sorted(precisions))} cannot be timed together: set run.precision"
        )
    times: dict[str, list[float]] = {name: [] for name in recipes}
    with ExitStack() as stack:
        trainers: dict[str, Trainer] = {}
        for (name, recipe), options in zip(recipes.items(), asked, strict=True):
            processes = stack.enter_context(
                Processes(
                    options.device,
                    options.precision,
                    tf32=options.tf32,
                    cudnn_benchmark=options.cudnn_benchmark,
                )
            )
            ready = stack.enter_context(session(recipe, processes, options, narrowed=FirstRows))
            trainers[name] = ready.trainer
        cpu = processes.device.type == "cpu"
        clock = time.process_time if cpu else time.perf_counter
        for turn in range(turns + WARM_UP):
            for name, trainer in trainers.items():
                start = clock()
                trainer.step()
                if not cpu:
                    torch.accelerator.synchronize(processes.device)
                if turn >= WARM_UP:
                    times[name].append(clock() - start)
            progress(turn + 1, turns + WARM_UP)
    return {name: statistics.median(took) for name, took in times.items()}
