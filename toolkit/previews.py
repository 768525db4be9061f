"""Samples of a run as it stands, and its result: a pipeline, or networks."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from toolkit.build import Built
from toolkit.card import refresh_card
from toolkit.checkpoint import folder_name
from toolkit.description import Description
from toolkit.grid import save_samples
from toolkit.network_folder import SavedNetwork, save_network
from toolkit.options import SampleOptions
from toolkit.pipeline import Pipeline
from toolkit.processes import Processes
from toolkit.recipe import Recipe
from toolkit.registry import Registry


class Previews:
    """Makes pipelines of the present weights, and grids with them, always from the same noise."""

    def __init__(self, recipe: Recipe, built: Built, registry: Registry, processes: Processes) -> None:
        self.options: SampleOptions = recipe.common(("samples",))
        self._recipe, self._built, self._registry, self._processes = recipe, built, registry, processes
        # A sampler that refuses its options does so now, and not after training.
        self.any = bool(self._previewed(0))

    def pipeline(self, step: int, *, average: bool) -> Pipeline | None:
        """The pipeline of the present weights, or of their averages if there are any.

        None for an objective that samples nothing, and for a recipe without a noise schedule.
        """
        built, role = self._built, self._built.training.objective.samples
        if role is None or built.schedule is None or built.sampler is None or built.initialiser is None:
            return None
        saved = self._network(role, step, average=average)
        parts = {name: self._recipe.component((name,)) for name in ("schedule", "sampler", "initialiser")}
        described = replace(saved.description, tables={**parts, **saved.description.tables})
        return Pipeline(
            saved.network, built.schedule, built.sampler, built.initialiser, described, self._registry  # type: ignore[arg-type]
        )  # fmt: skip

    def networks(self, step: int) -> dict[str, SavedNetwork]:
        """What is kept of a run without a pipeline: all networks that it trains, averaged where they are."""
        return {role: self._network(role, step, average=True) for role in self._built.training.optimizers}

    def _network(self, role: str, step: int, *, average: bool) -> SavedNetwork:
        built = self._built
        ema = built.training.averages.get(role) if average else None
        network = built.training.networks[role] if ema is None else ema.network
        about = {
            "role": role,
            "weights": "raw" if ema is None else "ema",
            "steps": step,
            "recipe": self._recipe.name,
        }
        table = {"network": self._recipe.component(("networks", role))}
        shape, classes = built.supplied["sample_shape"], built.supplied["num_classes"]
        return SavedNetwork(network, Description(table, shape, classes, about))

    def keep(self, step: int, run: Path) -> None:
        """Write what the run has come to into its folder: pipeline/, or without one networks/."""
        pipeline = self.pipeline(step, average=True)
        if pipeline is not None:
            pipeline.save_pretrained(run / "pipeline")
            refresh_card(run / "pipeline", run)
            return
        for role, saved in self.networks(step).items():
            save_network(saved, run / "networks" / role, self._registry)

    def save(self, step: int, folder: Path) -> Path | None:
        """A grid of the raw weights and one of the averages; returns the last one written here."""
        written = None
        for ending, pipeline in self._previewed(step):
            images = self._draw(pipeline)
            if self._processes.is_main:
                written = save_samples(images, folder / f"{folder_name(step)}{ending}.png")
        return written

    def _previewed(self, step: int) -> list[tuple[str, Pipeline]]:
        """What grids are made of, with the ending of their names."""
        role, calls = self._built.training.objective.samples, self.options.num_inference_steps
        found = []
        for average in (False, True) if role in self._built.training.averages else (False,):
            pipeline = self.pipeline(step, average=average)
            if pipeline is not None and self.options.num:
                chosen = pipeline if calls is None else pipeline.with_sampler(num_inference_steps=calls)
                found.append(("-ema" if average else "", chosen))
        return found

    def _draw(self, pipeline: Pipeline) -> Tensor:
        """All images of a grid; each process draws its share, and image i is the same whoever draws it."""
        share = -(-self.options.num // self._processes.count)
        first = self._processes.rank * share
        batches = pipeline.sample(
            share, seed=self.options.seed, first=first, batch_size=self.options.batch_size
        )
        return self._processes.gather(torch.cat(list(batches))).flatten(0, 1)[: self.options.num]
