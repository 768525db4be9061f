"""What a model costs: measured while it samples here, and read off the records of its training."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toolkit.files import write_json
from toolkit.pipeline import Pipeline
from toolkit.recipe import read_layers, resolve
from toolkit.registry import Registry
from toolkit.summary import read_run

FILE = "cost.json"
WARM_UP = 2  # network calls


@dataclass(frozen=True)
class Cost:
    """What is in cost.json.

    Attributes:
        parameters: of each network, by role.
        samples_per_second: of whole draws at `batch_size`, after a warm-up.
        network_calls: for one sample, those of the initialiser included.
        flops_per_image: of one sample, all network calls together; a multiplication and an addition are two.
        peak_memory_bytes: while sampling; see `peak_memory`.
        peak_memory: "allocated on the device", or on a CPU "growth of the process's peak resident memory".
        train_images_per_second: median over the run's records; None without a run.
        train_seconds: wall time of training, of all parts of a resumed run; None without a run.
        threads: of the CPU.
    """

    parameters: dict[str, int]
    samples_per_second: float
    batch_size: int
    network_calls: int
    flops_per_image: int
    peak_memory_bytes: int
    peak_memory: str
    train_images_per_second: float | None
    train_seconds: float | None
    device: str
    threads: int

    def write(self, run: Path) -> Path:
        write_json(run / FILE, asdict(self))
        return run / FILE


def measure_cost(
    pipeline: Pipeline, run: Path | None, registry: Registry, *, batch_size: int = 16, seconds: float = 5.0
) -> Cost:
    """Sample whole batches for at least `seconds`, and at least one.

    Args:
        pipeline: on the device that is measured.
        run: whose records say what training cost; None for a pipeline without.
        registry: of the plugins that the run's other networks are of.
        batch_size: images at once.
        seconds: a draw that takes longer is taken once.
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
        parameters=parameters(pipeline, run, registry),
        samples_per_second=draws * batch_size / took,
        batch_size=batch_size,
        network_calls=pipeline.calls + pipeline.initialiser.calls,
        flops_per_image=flops(pipeline),
        peak_memory_bytes=peak,
        peak_memory="allocated on the device" if cuda else "growth of the process's peak resident memory",
        train_images_per_second=None if records is None else records.images_per_second,
        train_seconds=None if records is None else records.train_seconds,
        device=torch.cuda.get_device_name(pipeline.device) if cuda else pipeline.device.type,
        threads=torch.get_num_threads(),
    )


def parameters(pipeline: Pipeline, run: Path | None, registry: Registry) -> dict[str, int]:
    """Parameters of each network by its role: of all that the run trained, or of the one that samples."""
    description = pipeline.description
    role = str(description.about.get("role") or "denoiser")
    counts = {role: _count(pipeline.denoiser)}
    if run is None:
        return counts
    recipe = resolve(read_layers(str(run / "recipe.toml"), []), registry)
    supplied = description.supplied(pipeline.schedule)
    with torch.device("meta"):  # for their shapes alone
        for other in recipe.tables["networks"]:
            if other not in counts:
                counts[other] = _count(recipe.create(("networks", other), supplied))
    return counts


def flops(pipeline: Pipeline) -> int:
    """Of one sample: those up to the first network call, and for every further call those of the second."""
    first = _counted(lambda: _draw(pipeline, 1, calls=1))
    if pipeline.calls < 2:
        return first
    return first + (pipeline.calls - 1) * (_counted(lambda: _draw(pipeline, 1, calls=2)) - first)


class _Enough(Exception):
    """Ends a draw early."""


def _draw(pipeline: Pipeline, n: int, calls: int | None = None) -> Tensor | None:
    """n samples, or None after so many network calls; the device has finished them then."""

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
