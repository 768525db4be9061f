"""A run as it stands: its samples, its measures on held-out data, and its result, a pipeline or networks."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.console import say
from toolkit.data.batches import Batches
from toolkit.data.source import counted
from toolkit.devices.processes import Processes, widest
from toolkit.errors import DataError, SamplingError
from toolkit.pipeline.folder import (
    COMMON,
    PARTS,
    Saved,
    SavedNetwork,
    layouts,
    refuse_to_replace,
    save_network,
)
from toolkit.pipeline.images import save_samples
from toolkit.pipeline.pipeline import Pipeline
from toolkit.randomness import position_seed, seed_default_generators
from toolkit.recipe import Recipe
from toolkit.registry.registry import Registry
from toolkit.registry.signature import Positive
from toolkit.runs.layout import step_name
from toolkit.training.build import Built
from toolkit.training.objective import Step
from toolkit.training.trainer import Training


@dataclass(frozen=True)
class SampleOptions:
    """Sample grids during training, always from the same noise: one of the raw and one of the EMA weights.

    Args:
        every: steps between two grids; None samples at the end only.
        num: images in a grid; 0 makes none.
        seed: image i of the grid is seeded seed + i.
        num_inference_steps: of the sampler; None for the schedule's own number.
        batch_size: images sampled at once.
    """

    every: Positive | None = None
    num: Annotated[int, Field(ge=0)] = 64
    seed: Annotated[int, Field(ge=0)] = 0
    num_inference_steps: Positive | None = None
    batch_size: Positive = 64


class Previews:
    """Makes pipelines of the current weights, and sample grids with them, always from the same noise."""

    def __init__(self, recipe: Recipe, built: Built, registry: Registry, processes: Processes) -> None:
        self.options: SampleOptions = recipe.common(("samples",))
        self._recipe, self._built, self._registry, self._processes = recipe, built, registry, processes
        self._pictures = True
        with suppress(DataError):  # whether an unreadable example stops a run is for others to say
            self._pictures = built.source.read(torch.arange(1))[0].dtype == torch.uint8
        # So that a sampler refuses its options now, not after training; and what could not be loaded again.
        self.any = bool(self._previewed(0))
        if (result := self.pipeline(0, average=True)) is not None:
            result.refuse_outside()

    def pipeline(
        self, step: int, *, average: bool, instead: Mapping[str, nn.Module] | None = None
    ) -> Pipeline | None:
        """The pipeline of the current weights, or with `average` of their averages if there are any.

        None if the objective samples nothing, or the recipe has no noise schedule.

        Args:
            step: the last one.
            average: whether averages are sampled.
            instead: networks by role that take the place of those of the run, whose weights they have.
        """
        built, role = self._built, self._built.training.objective.samples
        if role is None or built.schedule is None or built.sampler is None or built.start is None:
            return None
        roles = built.training.networks
        networks = {name: self._network(name, step, average=average, instead=instead) for name in roles}
        saved = networks[role]
        names = [name for name in PARTS if name in self._recipe.tables]  # all but the network
        parts = {
            name: self._recipe.tables[name] if name in COMMON else self._recipe.component((name,))
            for name in names
        }
        whole = saved.saved.model_copy(update=parts)
        start = built.start.with_networks(networks)
        return Pipeline(
            saved.network, built.schedule, built.sampler, start, whole, self._registry,  # type: ignore[arg-type]
            built.guidance, built.encoder,
        )  # fmt: skip

    def networks(
        self, step: int, *, instead: Mapping[str, nn.Module] | None = None
    ) -> dict[str, SavedNetwork]:
        """What a run without a pipeline keeps: the network that would sample, else all; averages if any."""
        training = self._built.training
        roles = [training.objective.samples] if training.objective.samples else training.optimizers
        return {role: self._network(role, step, average=True, instead=instead) for role in roles}

    def _network(
        self, role: str, step: int, *, average: bool, instead: Mapping[str, nn.Module] | None
    ) -> SavedNetwork:
        built = self._built
        ema = built.training.ema.get(role) if average else None
        network = built.training.networks[role] if ema is None else ema.network
        saved = Saved(
            role=role,
            weights="raw" if ema is None else "ema",
            steps=step,
            recipe=self._recipe.name,
            sample_shape=built.supplied["sample_shape"],
            image_shape=None if built.encoder is None else tuple(built.source.image_shape),
            num_classes=built.supplied["num_classes"],
            class_names=list(built.source.class_names) if built.source.class_names else None,
            pictures=self._pictures,
            network=self._recipe.component(("networks", role)),
        )
        return SavedNetwork(network if instead is None else instead[role], saved)

    def describe(self, step: int, checkpoint: Path) -> None:
        """Write into a checkpoint what it takes to sample it, if the objective samples."""
        if (pipeline := self.pipeline(step, average=False)) is not None:
            pipeline.describe(checkpoint)

    def keep(self, step: int, run: Path) -> None:
        """Write the run's result into its folder: pipeline/, or networks/ if there is no pipeline.

        All processes call this; the main one writes.
        """
        training = self._built.training
        averaged = {**training.networks, **{role: ema.network for role, ema in training.ema.items()}}
        whole = {role: training.placement.whole(network) for role, network in averaged.items()}

        def write() -> None:
            pipeline = self.pipeline(step, average=True, instead=whole)
            if pipeline is not None:
                pipeline.save_pretrained(run / "pipeline", run=run)
                return
            for role, saved in self.networks(step, instead=whole).items():
                save_network(saved, run / "networks" / role, self._registry)

        self._processes.on_main(write)

    def refuse_to_replace(self, run: Path) -> None:
        """Refuse, before training, to write the result over anything but an earlier result.

        Raises:
            RunError: naming what is in the way.
        """
        known = layouts(self._registry)
        if self.pipeline(0, average=True) is not None:
            refuse_to_replace(run / "pipeline", known)
            return
        for role in self.networks(0):
            refuse_to_replace(run / "networks" / role, known)

    @property
    def calls(self) -> int:
        """Network calls of a grid, of all images and sets of weights, on this process."""
        return sum(self._share * _calls(pipeline) for _, pipeline in self._previewed(0))

    @property
    def _share(self) -> int:
        """Images of a grid that each process draws."""
        return -(-self.options.num // self._processes.count)

    @property
    def cost(self) -> str:
        """`64 samples by 200 network calls each, twice: averaged and raw weights`."""
        made = self._previewed(0)
        twice = ", twice: averaged and raw weights" if len(made) > 1 else ""
        calls = counted(_calls(made[0][1]), "network call")
        return f"{counted(self.options.num, 'sample')} by {calls} each{twice}"

    def save(
        self, step: int, folder: Path, progress: Callable[[int], None] = lambda calls: None
    ) -> Path | None:
        """Save a grid of the averages and then, as a sign that all are there, one of the raw weights.

        Samples that are not finite make none.

        Args:
            step: the last one.
            folder: where they are written.
            progress: called with the network calls done, of `calls`.

        Returns:
            The first file that this process has written; None if there is none.
        """
        written: Path | None = None
        done = 0
        for ending, pipeline in self._previewed(step):
            images = self._draw(pipeline, done, progress)
            done += self._share * _calls(pipeline)
            if not bool(images.isfinite().all()):
                if self._processes.is_main:
                    say(f"samples of step {step}{ending} are not finite: there is no grid of them", "note")
            elif self._processes.is_main:
                name = f"{step_name(step)}{ending}.png"
                path = save_samples(images, folder / name, pipeline.pictures)
                written = written or path
        return written

    def _previewed(self, step: int) -> list[tuple[str, Pipeline]]:
        """The pipelines that grids are made with, each with the ending of its file's name."""
        role, calls = self._built.training.objective.samples, self.options.num_inference_steps
        result = []
        for average in (True, False) if role in self._built.training.ema else (False,):
            pipeline = self.pipeline(step, average=average)
            if pipeline is not None and self.options.num:
                chosen = pipeline if calls is None else pipeline.with_sampler(num_inference_steps=calls)
                result.append(("-ema" if average else "", chosen))
        return result

    def _draw(self, pipeline: Pipeline, done: int, progress: Callable[[int], None]) -> Tensor:
        """All images of a grid; each process draws a share, and image i is the same whoever draws it."""

        def drawn(offset: int, within: int, n: int, calls: int) -> None:
            progress(done + offset * _calls(pipeline) + n * calls)

        share, size, seed = self._share, self.options.batch_size, self.options.seed
        images = torch.full((share, *pipeline.image_shape), math.nan, device=pipeline.device)
        for offset in range(0, share, size):  # each, as the other processes may need this one for theirs
            n, first = min(size, share - offset), self._processes.rank * share + offset
            with suppress(SamplingError):  # a young network's; the run goes on
                (images[offset : offset + n],) = pipeline.sample(
                    n, seed=seed, first=first, batch_size=n, progress=partial(drawn, offset)
                )
        return self._processes.gather(images).flatten(0, 1)[: self.options.num]


def measure(
    training: Training, batches: Batches, rows: int, micro_batch: int, seed: int, number: int,
    processes: Processes, progress: Callable[[int], None] = lambda rows: None,
) -> dict[str, float]:  # fmt: skip
    """Means of every measure over the first `rows` held-out rows, as `<turn>/<name>`.

    Networks are in eval() (the next training step undoes that); averages replace them where the recipe
    has [ema.<role>]. Seeds depend on the rows alone, so all checkpoints are measured with the same noise.
    Results are the same for any number of processes. `progress` is called with the rows done so far.
    """
    size = min(micro_batch, rows)
    shards = rows // size
    networks = {**training.networks, **{role: ema.network for role, ema in training.ema.items()}}
    for network in networks.values():
        network.eval()
    step = Step(number, 0, processes.device, networks, networks, processes.float32, processes.no_grad)
    means: dict[str, float] = {}
    for i, turn in enumerate(training.objective.measures()):
        totals: dict[str, Tensor] = {}
        # All processes compute as many, since networks in parts need them all; the surplus weighs nothing.
        for first in range(0, shards, processes.count):
            mine = first + processes.rank
            shard = mine if mine < shards else 0
            seed_default_generators(position_seed(seed, "measure", turn.name, shard), processes.device)
            with torch.no_grad(), processes.autocast():
                loss = turn.loss(batches.get(shard * size, size), step)
            progress(i * rows + (shard + 1) * size)
            for name, value in {"loss": loss.total, **loss.logs}.items():
                here = value.detach().to(processes.device, widest(processes.device)) * float(mine < shards)
                totals[f"{turn.name}/{name}"] = (
                    totals.get(f"{turn.name}/{name}", torch.zeros_like(here)) + here
                )
        sums = torch.stack([totals[name] for name in sorted(totals)])
        processes.add_(sums)
        means |= dict(zip(sorted(totals), (sums / shards).tolist(), strict=True))
    return means


def _calls(pipeline: Pipeline) -> int:
    """Network calls of one image, those of its start included."""
    return pipeline.calls + pipeline.start.calls
