"""What the commands do, as functions: training, loading and evaluating from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.console import evaluating_display, say
from toolkit.diffusion.denoiser import device_named
from toolkit.errors import RunError
from toolkit.evaluation.evaluate import Split, read_protocol
from toolkit.evaluation.evaluate import evaluate as scores_of
from toolkit.pipeline.folder import Weights
from toolkit.pipeline.pipeline import Pipeline
from toolkit.recipe import read_layers, resolve
from toolkit.recipe.writer import write_value
from toolkit.registry.load import load as load_plugins
from toolkit.runs.checkpoints import checkpoint_of
from toolkit.runs.layout import run_of
from toolkit.runs.read import read_run
from toolkit.training.loop import train as run_training


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        folder: where everything of the run lies.
    """

    folder: Path

    def pipeline(
        self,
        weights: Weights | None = None,
        device: str | torch.device | None = None,
        checkpoint: int | Literal["best"] | None = None,
    ) -> Pipeline:
        """What was trained; with `checkpoint` as it was after that step, or when it was best. See `load`."""
        path = self.folder if checkpoint is None else checkpoint_of(self.folder, checkpoint)
        return load(path, weights, device)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of training, in order: step, losses, learning rates, held-out measures."""
        return [dict(record) for record in read_run(self.folder).records]

    @property
    def step(self) -> int:
        """The last step that was taken."""
        return read_run(self.folder).step


def train(
    recipe: str | Path,
    values: Mapping[str, Any] | None = None,
    *,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
) -> Run:
    """Train by a recipe, as `toolkit train` does, in this process.

    Args:
        recipe: a .toml file or a run folder, or the name of a packaged recipe.
        values: of the recipe, by dotted key: {"run.steps": 200, "data.path": "my/images"}. Relative paths
            start at the working directory; None unsets a value, as "none" does in `--set`.
        resume: go on from the newest checkpoint in the run folder; "auto" also starts a run.
        overwrite: replace a run that is already there.

    Returns:
        The run. Its folder is [run] out, by default runs/<recipe>.

    Raises:
        ToolkitError: for every mistake in the recipe or the data, before anything is computed.
        KeyboardInterrupt: if the run was interrupted; everything is saved, and `resume=True` goes on.
    """
    if resume and overwrite:
        raise RunError("resume keeps a run and overwrite replaces it: choose one of them")
    plugins = load_plugins()
    resolved = resolve(read_layers(recipe, _flags(values)), plugins.registry)
    for note in resolved.notes:
        say(note, "note")
    outcome = run_training(resolved, plugins, resume=resume, overwrite=overwrite)
    if outcome.signal is not None:
        raise KeyboardInterrupt(f"{outcome.ended} at step {outcome.step}: train(..., resume=True) goes on")
    return Run(outcome.folder)


def load(
    path: str | Path | Run, weights: Weights | None = None, device: str | torch.device | None = None
) -> Pipeline:
    """A trained pipeline: from a pipeline folder, a run or a checkpoint, a diffusers folder or a Hub id.

    Args:
        path: a folder, a Hub id such as "google/ddpm-cifar10-32", or what `train` has returned.
        weights: "ema" or "raw", of the newest checkpoint; by default the averaged ones, if there are any.
        device: where it samples, by default on the CPU; "auto" takes an accelerator if there is one.

    Raises:
        CheckpointError: if there is none, or it is damaged.
        PluginError: naming the plugin that it needs and that is not installed.
        ToolkitError: if torch has no such device here.
    """
    where = _device(device)
    pipeline = Pipeline.from_pretrained(path.folder if isinstance(path, Run) else path, weights)
    return pipeline.to(where)


def evaluate(
    subject: str | Path | Run | Pipeline,
    metrics: Sequence[str],
    values: Mapping[str, Any] | None = None,
    *,
    features: str | None = None,
    num: int | None = None,
    data: str | Path | None = None,
    split: Split | None = None,
    device: str | torch.device | None = "auto",
    out: str | Path | None = None,
) -> dict[str, float]:
    """Score a trained model, as `toolkit evaluate` does; scores and samples are kept as there.

    Args:
        subject: a run, any folder that `load` takes, or a pipeline, whose sampler may be another one.
        metrics: their names.
        values: of the protocol, by dotted key: {"features.path": "runs/classifier", "images.real": 2000}.
        features: what images are compared by.
        num: of generated images, 10,000 by default.
        data: a recipe with the data to compare with, or a folder of images, whose path has a slash; needed
            where the subject is not a run.
        split: of the data; by default the held-out examples, or those of training if there are none.
        device: where samples and features are computed.
        out: the folder for scores and samples; needed where the subject is not a run.

    Returns:
        All values by name, those with `_std` or `standard_error` included.

    Raises:
        ToolkitError: for every mistake, before anything is computed.
    """
    if isinstance(metrics, str):
        raise RunError(f'metrics is a list of names: ["{metrics}"]')
    source = subject.folder if isinstance(subject, Run) else subject
    run = None if isinstance(source, Pipeline) else run_of(source)
    if run is None and (data is None or out is None):
        what = "a pipeline" if isinstance(source, Pipeline) else source
        raise RunError(f"{what}: no run, which would know its data: state data, a recipe, and out, a folder")
    folder, recipe = Path(out or f"{run}/scores"), data or f"{run}/recipe.toml"
    shorthands = {"images.num": num, "features.type": features}
    stated = {key: value for key, value in shorthands.items() if value is not None}
    protocol = read_protocol(recipe, metrics, _flags({**stated, **(values or {})}), load_plugins().registry)
    where = _device(device)
    pipeline = source if isinstance(source, Pipeline) else Pipeline.from_pretrained(source)
    result: dict[str, float] = {}
    with evaluating_display() as progress:
        for scored in scores_of(
            pipeline.to(where), protocol, folder, device=where, split=split, progress=progress
        ):
            scored.write(folder)
            for note in scored.notes:
                say(note, "note")
            result |= scored.values
    return result


def _flags(values: Mapping[str, Any] | None) -> list[str]:
    """The values as `--set` takes them."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in (values or {}).items()}
    return [f"{key}={'none' if value is None else write_value(value)}" for key, value in plain.items()]


def _device(name: str | torch.device | None) -> torch.device:
    return device_named(None if name == "auto" else name or "cpu", f"device {str(name)!r}")
