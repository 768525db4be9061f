"""The cost of a model: measured while it samples here, and read from the records of its training."""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toolkit import Pipeline, read_recipe
from toolkit.commands import Cost, read_run

WARM_UP = 2  # network calls


def measure_cost(pipeline: Pipeline, run: Path | None, *, batch_size: int = 16, seconds: float = 5.0) -> Cost:
    """Measure what sampling costs: draw whole batches for at least `seconds`, and at least one.

    Args:
        pipeline: on the device that is measured.
        run: the run folder whose records say what training cost; None for a pipeline without a run.
        batch_size: images at once.
        seconds: how long to draw; a draw that takes longer is made once.
    """
    cuda = pipeline.device.type == "cuda"
    before = _resident_peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats(pipeline.device)
    _draw(pipeline, batch_size, calls=WARM_UP)
    draws, start = 0, time.perf_counter()
    while draws == 0 or time.perf_counter() - start < seconds:
        _draw(pipeline, batch_size)
        draws += 1
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated(pipeline.device) if cuda else _resident_peak() - before
    records = None if run is None else read_run(run)
    return Cost(
        parameters=parameters(pipeline, run),
        samples_per_second=draws * batch_size / took,
        batch_size=batch_size,
        network_calls=pipeline.calls + pipeline.start.calls,
        flops_per_image=flops(pipeline),
        peak_memory_bytes=peak,
        peak_memory="allocated on the device" if cuda else "growth of the process's peak resident memory",
        train_images_per_second=None if records is None else records.images_per_second,
        train_seconds=None if records is None else records.train_seconds,
        device=torch.cuda.get_device_name(pipeline.device) if cuda else pipeline.device.type,
        threads=torch.get_num_threads(),
    )


def parameters(pipeline: Pipeline, run: Path | None) -> dict[str, int]:
    """Number of parameters by role: of all networks of the run, or of the one that samples."""
    role = pipeline.saved.role or "denoiser"
    counts = {role: _count(pipeline.denoiser)}
    if run is None:
        return counts
    recipe = read_recipe(run / "recipe.toml")
    supplied = pipeline.saved.supplied(pipeline.schedule)
    with torch.device("meta"):  # for their shapes alone
        for other in recipe.tables["networks"]:
            if other not in counts:
                counts[other] = _count(recipe.create(("networks", other), supplied))
    return counts


def flops(pipeline: Pipeline) -> int:
    """Operations for one sample: those up to the first network call, then those of the second per call."""
    first = _counted(lambda: _draw(pipeline, 1, calls=1))
    if pipeline.calls < 2:
        return first
    return first + (pipeline.calls - 1) * (_counted(lambda: _draw(pipeline, 1, calls=2)) - first)


class _Enough(Exception):
    """Ends a draw early."""


def _draw(pipeline: Pipeline, n: int, calls: int | None = None) -> Tensor | None:
    """Draw n samples, or stop after `calls` network calls and return None; waits for the device."""

    def stop(first: int, size: int, done: int) -> None:
        if done == calls and calls < pipeline.calls:
            raise _Enough

    try:
        return next(pipeline.sample(n, batch_size=n, progress=stop))
    except _Enough:
        return None
    finally:
        if pipeline.device.type != "cpu":
            torch.accelerator.synchronize(pipeline.device)


def _counted(work: Callable[[], object]) -> int:
    # The counter does not know every fused attention, a CPU's for one; spelled out it is matrix products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _resident_peak() -> int:
    """The most memory that this process has had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
