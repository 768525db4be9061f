"""The parts of a report for which the runs' models are sampled: grids, and strips of their chains."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from toolkit import Pipeline
from toolkit.commands import RunSummary
from toolkit_report import chains, figures
from toolkit_report.forms import POINTS, Form, form_of
from toolkit_report.ranking import Column
from toolkit_report.sections import Section, slug

SEED = 0


class Samples:
    """The sections that need the runs' models, grids and strips, and the samples of all in one picture.

    A run that cannot be sampled, for whatever reason, is a sentence; those of the others are there.
    """

    def __init__(
        self, runs: Sequence[RunSummary], looks: Sequence[figures.Style], score: Column | None, num: int,
        device: torch.device, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.parameters: dict[int, int] = {}
        self._num, self._device, self._say, self._score = num, device, say, score
        mixed = score is not None and not score.comparable
        self._caveat = "Letters are protocols: scores by different ones cannot be compared." if mixed else ""
        self._panels: list[figures.Panel] = []
        self._noised: dict[str, int] = {}  # by path and data, the place of the strip that shows them
        self.grids = Section(
            "Samples",
            f"The first {num} samples of each run, sample i from seed i, drawn for this report by the saved "
            "pipeline (averaged weights where the run kept any). Points and numbers are drawn over the data, "
            "in grey; of a volume a row is a sample, slice by slice.",
            beside=True,
        )
        self.forward = Section(
            "From data to noise",
            "Training examples diffused to some of the run's timesteps, with the same noise at each of them.",
        )
        self.denoising = Section(
            "From noise to samples",
            "What the network is given at some of its calls, and the clean sample that it estimates there. "
            "A model that draws x0 instead of estimating it shows one draw. Same seeds as above.",
        )
        for place, (run, look) in enumerate(zip(runs, looks, strict=True)):
            with self._noting(self.grids, f"{look.name}: cannot be sampled here"):
                self._add(place, run, look)

    @property
    def slide(self) -> figures.Picture | None:
        """The samples of all runs in one picture; None without any."""
        return figures.side_by_side(self._panels, self._caveat) if self._panels else None

    @contextmanager
    def _noting(self, section: Section, what: str) -> Iterator[None]:
        """Whatever fails is a note in a section, and is said: models and data are of any plugin."""
        try:
            yield
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            section.notes.append(f"{what}: {why}")
            self._say(f"{what}: {why}")

    def _add(self, place: int, run: RunSummary, look: figures.Style) -> None:
        name = look.name
        if run.pipeline is None:
            self.grids.notes.append(f"{name}: has no pipeline (nothing that samples, or not finished).")
            return
        form = form_of(run.image_shape, run.pipeline.get("pictures", True))
        self._say(f"sampling {name}")
        pipeline = Pipeline.from_pretrained(run.path).to(self._device)
        sampled = chains.sample(pipeline, form, self._num, SEED)
        self.parameters[place] = sampled.parameters
        real: Tensor | None = None
        with self._noting(self.forward, f"{name}: its data cannot be read here"):
            real = chains.examples(run, POINTS if form.clouds else chains.ROWS)
        calls = f"{sampled.calls:,} network call{'s' if sampled.calls > 1 else ''}"
        file, behind = slug(name), real if form.clouds else None
        grid = figures.grid(sampled.samples, form, f"samples-{file}", f"Samples of {name}", look, behind)
        self.grids.pictures.append((f"{name}: {calls}", grid))
        score = self._score.text(place) if self._score else ""
        words = f"{calls}, {self._score.name} {score}" if self._score and score else calls
        self._panels.append(figures.Panel(sampled.samples, form, look, behind, words))
        shows = f"How samples of {name} come about"
        chain = figures.strip(sampled.chain, form, f"denoising-{file}", shows, look)
        self.denoising.pictures.append((f"{name}: {calls}", chain))
        if real is not None:
            with self._noting(self.forward, f"{name}: its data cannot be diffused here"):
                self._diffuse(run, look, form, pipeline, real)

    def _diffuse(
        self, run: RunSummary, look: figures.Style, form: Form, pipeline: Pipeline, real: Tensor
    ) -> None:
        """Add the strip from data to noise, once for all runs with the same data and path."""
        name, steps = look.name, len(pipeline.schedule.grid(None, None)) - 1
        if steps == 1:
            self.forward.notes.append(f"{name}: its samples take one step, there is no chain to show.")
            return
        parts = {key: run.recipe.get(key) for key in ("data", "schedule", "encoder")}
        same = json.dumps(parts, sort_keys=True, default=str)
        pictures = self.forward.pictures
        if same in self._noised:
            title, picture = pictures[self._noised[same]]
            names, _, ending = title.rpartition(": ")
            pictures[self._noised[same]] = f"{names}, {name}: {ending}", picture
            return
        strip = chains.noised(real, form, pipeline, SEED)
        shows = f"Data of {name} on its way to noise"
        drawn = figures.strip(strip, form, f"noising-{slug(name)}", shows, look)
        self._noised[same] = len(pictures)
        pictures.append((f"{name}: {steps:,} steps", drawn))
