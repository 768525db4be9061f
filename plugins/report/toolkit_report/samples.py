"""The parts of a report for which the runs' models are sampled: grids, and strips of their chains."""

from collections.abc import Callable, Sequence

import torch

from toolkit import Pipeline
from toolkit.commands import RunSummary, ToolkitError
from toolkit_report import chains, figures
from toolkit_report.sections import Section, slug

SEED = 0


class Samples:
    """The sections that need the runs' models: grids and strips; empty if no samples are asked for."""

    def __init__(
        self, runs: Sequence[RunSummary], looks: Sequence[figures.Style], num: int, device: torch.device,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.parameters: dict[int, int] = {}
        self._num, self._device = num, device
        self.grids = Section(
            "Samples",
            f"The first {num} samples of each run, sample i from seed i, drawn for this report by the saved "
            "pipeline (averaged weights where the run kept any). Points are drawn over the data, in grey.",
            beside=True,
        )
        self.forward = Section(
            "From data to noise",
            "Training examples diffused to some of the run's timesteps, with the same noise at each of them.",
        )
        self.denoising = Section(
            "From noise to samples",
            "What the network is given at some of its calls, and the clean image that it estimates there. "
            "A model that draws x0 instead of estimating it shows one draw. Same seeds as above.",
        )
        for place, (run, look) in enumerate(zip(runs, looks, strict=True) if num else ()):
            self._add(place, run, look, say)
        for section in () if num else (self.grids, self.forward, self.denoising):
            section.notes.append("Left out: no samples were asked for (--samples 0).")

    def _add(self, place: int, run: RunSummary, look: figures.Style, say: Callable[[str], None]) -> None:
        name = look.name
        if run.pipeline is None:
            self.grids.notes.append(f"{name}: has no pipeline (nothing that samples, or not finished).")
            return
        shape = list(run.image_shape)
        pictures = len(shape) == 3 and shape[0] <= 4 and run.pipeline.get("pictures", True)
        if not pictures and (len(shape) != 1 or shape[0] < 2):
            self.grids.notes.append(f"{name}: samples of shape {shape} cannot be drawn.")
            return
        say(f"sampling {name}")
        try:
            pipeline = Pipeline.from_pretrained(run.path).to(self._device)
            sampled = chains.sample(pipeline, self._num, SEED)
        except ToolkitError as error:
            self.grids.notes.append(f"{name}: cannot be sampled here: {error}")
            return
        self.parameters[place] = sampled.parameters
        real = None
        try:
            real = chains.examples(run, chains.ROWS if pictures else chains.POINTS)
        except ToolkitError as error:
            self.forward.notes.append(f"{name}: its data is not here: {error}")
        title = f"{name}: {sampled.calls:,} network call{'s' if sampled.calls > 1 else ''}"
        file = slug(name)
        grid = figures.grid(sampled.samples, f"samples-{file}", f"Samples of {name}", look, real)
        self.grids.pictures.append((title, grid))
        chain = figures.strip(sampled.chain, f"denoising-{file}", f"How samples of {name} come about", look)
        self.denoising.pictures.append((title, chain))
        steps = len(pipeline.schedule.grid(None, None)) - 1
        if real is not None and steps > 1:
            strip = chains.noised(real, pipeline, SEED)
            drawn = figures.strip(strip, f"noising-{file}", f"Data of {name} on its way to noise", look)
            self.forward.pictures.append((f"{name}: {steps:,} steps", drawn))
        elif real is not None:
            self.forward.notes.append(f"{name}: its samples take one step, there is no chain to show.")
