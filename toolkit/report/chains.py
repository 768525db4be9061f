"""What a report shows of a model: samples, how they came about, and how examples turn into noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toolkit.console import sampling_display
from toolkit.denoiser import Denoiser, Prediction
from toolkit.pipeline import Pipeline
from toolkit.randomness import generators_for, randn
from toolkit.recipe import SECTIONS, read_layers, resolve
from toolkit.registry import Registry
from toolkit.sampler import below
from toolkit.schedule import NoiseSchedule
from toolkit.summary import RunSummary

DATA = next(section for section in SECTIONS if section.name == "data")
COLUMNS = 9  # timesteps of a strip; more would be too small to see
ROWS = 2  # pictures that are followed
BATCH = 64
POINTS = 2000  # samples of data that is no pictures: a scatter plot needs many


@dataclass(frozen=True)
class Strip:
    """Stages of a chain, from left to right.

    Attributes:
        titles: of the columns.
        rows: with a label, one value a column: pictures (columns, C, H, W) or clouds of points
            (columns, n, 2).
    """

    titles: Sequence[str]
    rows: Sequence[tuple[str, Tensor]]


@dataclass(frozen=True)
class Sampled:
    """Samples (n, ...) of a run's pipeline, sample i seeded seed + i, and the chain of the first of them."""

    samples: Tensor
    chain: Strip
    calls: int
    parameters: int


class Watched(Denoiser):
    """A denoiser that notes what it was asked and what it said, for the first rows of the first batch."""

    def __init__(self, denoiser: Denoiser, timesteps: Sequence[int], rows: int) -> None:
        super().__init__()
        self.denoiser, self._timesteps, self._rows = denoiser, set(timesteps), rows
        self.respaceable, self.conditional = denoiser.respaceable, denoiser.conditional
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        return self.denoiser.latent(n, generators)

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Prediction:
        said: Prediction = self.denoiser(x_t, t, label, latent)
        now = int(t[0])
        if now in self._timesteps and now not in self.seen:
            self.seen[now] = x_t[: self._rows].cpu(), said.x0[: self._rows].cpu()
        return said


def sample(pipeline: Pipeline, num: int, seed: int, registry: Registry) -> Sampled:
    """Sample `num` pictures, or `POINTS` points, and note the chain on the way."""
    pictures = len(pipeline.description.sample_shape) == 3
    num, rows = (num, ROWS) if pictures else (POINTS, POINTS)
    visited = below(pipeline.sampler.timesteps, pipeline.initialiser.start)
    watched = Watched(pipeline.denoiser, _spread(visited), rows)
    observed = Pipeline(
        watched, pipeline.schedule, pipeline.sampler, pipeline.initialiser, pipeline.description,
        registry,
    )  # fmt: skip
    with sampling_display(num, pipeline.calls) as progress:
        batches = observed.sample(num, seed=seed, batch_size=max(rows, BATCH), progress=progress)
        samples = torch.cat([batch.cpu() for batch in batches])
    stages = list(watched.seen.items())
    titles = [*(f"t = {t}" for t, _ in stages), "sample"]
    last = samples[:rows]
    seen = torch.stack([*(x_t for _, (x_t, _) in stages), last])  # (columns, rows, ...)
    said = torch.stack([*(x0 for _, (_, x0) in stages), last])
    own = [("$x_t$", seen), (r"estimate of $x_0$", said)]
    parameters = sum(p.numel() for p in pipeline.denoiser.parameters())
    return Sampled(samples, Strip(titles, _rows(own, pictures)), pipeline.calls, parameters)


def examples(run: RunSummary, num: int, registry: Registry) -> Tensor:
    """The first examples that a run was trained on: pictures in [-1, 1], others as they stand.

    Raises:
        ToolkitError: if the data is not here.
    """
    layers = read_layers(run.path / "recipe.toml")
    own = {DATA.name: layers.values[DATA.name]}
    source = resolve(replace(layers, values=own), registry, (DATA,)).create((DATA.name,), {})
    found: Tensor = source.read(torch.arange(min(num, len(source))))[0]
    return found.float() / 127.5 - 1 if found.dtype == torch.uint8 else found.float()


def noised(x0: Tensor, schedule: NoiseSchedule, seed: int) -> Strip:
    """Examples (n, ...) on their way to noise: x_t by q(x_t | x_0), with the same noise at every timestep."""
    timesteps = list(reversed(_spread(list(reversed(schedule.timesteps.tolist())))))
    noise = randn(x0.shape, generators_for(seed, 0, len(x0), x0.device), x0.device)
    stages = [schedule.diffuse(x0, torch.full((len(x0),), t), noise) for t in (-1, *timesteps)]
    titles = ["$x_0$", *(f"t = {t}" for t in timesteps)]
    return Strip(titles, _rows([("$x_t$", torch.stack(stages))], pictures=x0.ndim == 4))


def _spread(timesteps: Sequence[int]) -> list[int]:
    """At most so many of the timesteps as a strip has columns, evenly, both ends among them."""
    n = min(COLUMNS - 1, len(timesteps))
    return [timesteps[int(i)] for i in torch.linspace(0, len(timesteps) - 1, n).round()]


def _rows(stages: Sequence[tuple[str, Tensor]], pictures: bool) -> list[tuple[str, Tensor]]:
    """Rows of stages (columns, n, ...): one for each picture, or one for the whole cloud."""
    if not pictures:
        return list(stages)
    count = stages[0][1].shape[1]
    return [(label, seen[:, row]) for row in range(count) for label, seen in stages]
