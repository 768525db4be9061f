"""Samples of a model, the chains that led to them, and examples on their way to noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit import (
    DataSource,
    Pipeline,
    Prediction,
    generators_for,
    randn,
    read_data,
    to_float,
)
from toolkit.commands import RunSummary, sampling_display
from toolkit_report.forms import POINTS, Form

COLUMNS = 9  # timesteps of a strip; more would be too small to see
ROWS = 2  # samples whose chain is shown
BATCH = 64


@dataclass(frozen=True)
class Strip:
    """Stages of a chain, from left to right.

    Attributes:
        titles: one for each column.
        rows: a label, and one stage for each column: samples (columns, ...) or clouds of them
            (columns, n, ...).
    """

    titles: Sequence[str]
    rows: Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class Sampled:
    """Samples (n, ...) of a run's pipeline, sample i from seed + i, and the chain of the first of them."""

    samples: Tensor
    chain: Strip
    calls: int
    parameters: int


class Watch:
    """Records a network's inputs and estimates at some times, for the first rows of the first batch."""

    def __init__(self, times: Sequence[float], rows: int) -> None:
        self._times, self._rows = {as_float32(t) for t in times}, rows
        self.seen: dict[float, tuple[Tensor, Tensor]] = {}

    def __call__(self, network: nn.Module, given: tuple[Tensor, ...], prediction: Prediction) -> None:
        x_t, t = given
        now = as_float32(float(t[0]))
        if now in self._times and now not in self.seen:
            self.seen[now] = x_t[: self._rows].cpu(), prediction.x0[: self._rows].cpu()


def as_float32(time: float) -> float:
    """The time as networks get it."""
    return float(torch.tensor(time, dtype=torch.float32))


def sample(pipeline: Pipeline, form: Form, num: int, seed: int) -> Sampled:
    """Sample `num` times, or `POINTS` times where many are drawn as one; and record the chain on the way."""
    num, rows = (POINTS, POINTS) if form.clouds else (num, ROWS)
    watch = Watch(_spread(pipeline.times[:-1]), rows)
    hook = pipeline.denoiser.register_forward_hook(watch)
    try:
        with sampling_display(num, pipeline.calls) as progress:
            batches = pipeline.sample(num, seed=seed, batch_size=max(rows, BATCH), progress=progress)
            samples = torch.cat([batch.cpu() for batch in batches])
    finally:
        hook.remove()
    titles = [*(f"t = {t:.4g}" for t in watch.seen), "sample"]
    stages = [[pipeline.decode(x).cpu() for x in pair] for pair in watch.seen.values()]
    last = samples[:rows]
    seen = torch.stack([*(x_t for x_t, _ in stages), last])  # (columns, rows, ...)
    estimates = torch.stack([*(x0 for _, x0 in stages), last])
    own = [("$x_t$", seen), (r"estimate of $x_0$", estimates)]
    parameters = sum(p.numel() for p in pipeline.denoiser.parameters())
    return Sampled(samples, Strip(titles, _rows(own, form)), pipeline.calls, parameters)


def examples(run: RunSummary, num: int) -> Tensor:
    """The first examples that a run was trained on, float32: pictures in [-1, 1], others as they are.

    Raises:
        ToolkitError: if the data is missing or unreadable.
    """
    source: DataSource = read_data(run.path / "recipe.toml")
    data: Tensor = source.read(torch.arange(min(num, len(source))))[0]
    return to_float(data)


def noised(images: Tensor, form: Form, pipeline: Pipeline, seed: int) -> Strip:
    """Examples (n, *image_shape) on their way to noise: x_t ~ q(x_t | x_0), the same noise at every t."""
    x0, schedule = pipeline.encode(images).cpu(), pipeline.schedule
    times = list(reversed(_spread(schedule.grid(None, None)[:-1])))
    noise = randn(x0.shape, generators_for(seed, 0, len(x0), x0.device), x0.device)
    stages = [pipeline.decode(schedule.diffuse(x0, t, noise)).cpu() for t in (schedule.clean, *times)]
    titles = ["$x_0$", *(f"t = {t:.4g}" for t in times)]
    return Strip(titles, _rows([("$x_t$", torch.stack(stages))], form))


def _spread(times: Sequence[float]) -> list[float]:
    """Evenly spaced times, both ends among them, no more than fit into the columns of a strip."""
    n = min(COLUMNS - 1, len(times))
    return [times[int(i)] for i in torch.linspace(0, len(times) - 1, n).round()]


def _rows(stages: Sequence[tuple[str, Tensor]], form: Form) -> list[tuple[str, Tensor]]:
    """Rows of stages (columns, n, ...): one for each sample, or one for the whole cloud."""
    if form.clouds:
        return list(stages)
    count = stages[0][1].shape[1]
    return [(label, seen[:, row]) for row in range(count) for label, seen in stages]
