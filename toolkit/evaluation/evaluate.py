"""Evaluating a model or a folder of images: the protocol, the real examples, and the scores."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.data.source import DataSource
from toolkit.errors import RecipeError, printable
from toolkit.evaluation.comparison import (
    Comparison,
    EvaluationOptions,
    Progress,
    Share,
    cache_folder,
    identity_of_images,
    sampled_by,
)
from toolkit.evaluation.features import FeatureExtractor
from toolkit.evaluation.metric import Metric, Subject
from toolkit.pipeline.pipeline import Pipeline
from toolkit.recipe import PROTOCOL, Layers, Recipe, flag_layer, read_layers, resolve
from toolkit.registry.discover import OWN
from toolkit.registry.registry import Registry
from toolkit.runs.layout import holds_images
from toolkit.runs.read import ScoreFile

Split = Literal["held_out", "train"]


def read_protocol(
    data: str | Path, metrics: Sequence[str], overrides: Sequence[str], registry: Registry
) -> Recipe:
    """The [data] of a recipe, and a [metrics.<name>] for each metric, under `--set` overrides.

    Instead of a recipe, `data` may be a folder of images, whose path has a slash. The overrides may also set
    [images] (`EvaluationOptions`) and [features].

    Raises:
        RecipeError: if an override is wrong, or sets anything else.
    """
    flags = [*(f"metrics.{name}.type={name}" for name in metrics), *overrides]
    if "/" in str(data) and holds_images(Path(data).expanduser()):
        table, origin = {"type": "folder", "path": str(data)}, f"--data {printable(str(data))}"
        origins = {("data",): origin, ("data", "type"): origin, ("data", "path"): origin}
        layers = Layers("images", None, origin, {"data": table}, origins).over(flag_layer(flags))
    else:
        layers = read_layers(data, flags)
    for name in metrics:
        layers.origins["metrics", name] = layers.origins["metrics", name, "type"] = f"--metrics {name}"
    by_flags = {path[0] for path, origin in layers.origins.items() if origin.startswith("--set")}
    # The recipe's other sections are ignored; any other that a flag sets is kept, and refused as a mistake.
    wanted = {section.name for section in PROTOCOL} | by_flags
    values = {name: table for name, table in layers.values.items() if name in wanted}
    return resolve(dataclasses.replace(layers, values=values), registry, PROTOCOL)


def evaluate(
    subject: Pipeline | DataSource,
    protocol: Recipe,
    folder: Path,
    *,
    device: torch.device,
    split: Split | None = None,
    progress: Progress = lambda what, done, total: None,
    share: Share | None = None,
) -> Iterator[ScoreFile]:
    """Score a model, or images, by every metric of a protocol, one after the other.

    Args:
        subject: a pipeline on `device`, or a data source of images, e.g. a folder's.
        protocol: from `read_protocol`.
        folder: where samples are kept, so that those of a stopped evaluation are not made again.
        device: where features are computed.
        split: "held_out" or "train" examples of the data; None takes the held-out ones if there are any.
        progress: called with what is being done, how many of its parts are done, and of how many.
        share: this process's part of the work; all processes must see the same folders. None if alone.

    Raises:
        RecipeError: if held-out examples are asked for and there are none, or if shapes differ.
        ToolkitError: if a metric refuses the subject.
    """
    source, chosen = real_examples(protocol, split)
    if isinstance(subject, Pipeline):
        model, shape = subject, tuple(subject.image_shape)
    else:
        model, shape = None, tuple(subject.image_shape)
    if tuple(source.image_shape) != shape:
        raise RecipeError(
            f"{protocol.where(('data',))} has examples of {tuple(source.image_shape)}, but those to score "
            f"are {shape}"
        )
    supplied = {
        "schedule": model.schedule if model else None,
        "sample_shape": shape,
        "num_classes": source.num_classes,
    }
    extractor: FeatureExtractor | None = None
    if "features" in protocol.tables:
        extractor = protocol.create(("features",), supplied)
    metrics: dict[str, Metric] = {
        name: protocol.create(("metrics", name), supplied) for name in protocol.tables["metrics"]
    }
    options: EvaluationOptions = protocol.common(("images",))
    identity = model.identity if model else ""
    drawn_by = sampled_by(model, identity) if model else ""
    comparison = Comparison(
        subject, drawn_by, source, options, extractor, device, folder, progress, share or Share(),
        cache_folder(),
    )  # fmt: skip
    if not isinstance(subject, Pipeline):
        identity = identity_of_images(subject, comparison.num_generated)
    pictures = len(shape) == 3 and (model is None or model.pictures)
    for name, metric in metrics.items():

        def report(done: int, total: int, name: str = name) -> None:
            progress(name, done, total)

        asked = Subject(model, source, report, comparison, chosen)
        score = metric.measure(asked)
        # What a metric did not ask for cannot change its score, so it is not part of the protocol.
        compares, looks = bool(asked.used), "features" in asked.used
        real = {"data": protocol.component(("data",)), "split": chosen}
        others = _strangers(protocol, ("metrics", name), *[("features",)] * looks)
        measured = {
            "metric": protocol.tables["metrics"][name],
            "extractor": {"name": extractor.name, "identity": extractor.identity}
            if extractor and looks else None,
            "real": {**real, "num": comparison.num_real} if compares else real,
            "generated": {
                "num": comparison.num_generated,
                "quantised": "to 8 bits, rounded" if pictures else None,
            } if compares else {},
            "toolkit": importlib.metadata.version("diffusion-toolkit"),
            **({"plugins": others} if others else {}),
        }  # fmt: skip
        sampled = _sampling(model)
        if sampled is not None and compares:
            sampled["seed"] = options.seed
        identified = {"identity": identity, **(model.saved.model if model else {})}
        yield ScoreFile.measured(
            name,
            score.values,
            score.better,
            measured,
            sampled,
            identified,
            score.curves,
            score.notes,
            score.picture,
        )


def _strangers(protocol: Recipe, *tables: tuple[str, ...]) -> dict[str, str]:
    """The plugins behind these tables that do not come with the toolkit, with their own versions."""
    kinds = {"metrics": Metric, "features": FeatureExtractor}
    owners = [
        protocol.registry.component(kinds[path[0]], protocol.component(path)["type"]).owner for path in tables
    ]
    return {o.name: f"{o.distribution} {o.version}" for o in owners if o.distribution not in ("", OWN)}


def _sampling(model: Pipeline | None) -> dict[str, Any] | None:
    """How the model is sampled; None for a folder of images."""
    if model is None:
        return None
    return {
        "sampler": model.saved.sampler,
        "start": model.table("start"),
        "weights": model.saved.weights,
        **({"guidance": model.table("guidance")} if model.guidance else {}),
    }


def real_examples(protocol: Recipe, split: Split | None) -> tuple[DataSource, Split]:
    """The real examples to compare with, and the split that they are from.

    Raises:
        RecipeError: if held-out ones are asked for and there are none.
    """
    source: DataSource = protocol.create(("data",), {})
    held_out = None if split == "train" else source.held_out()
    if split == "held_out" and held_out is None:
        raise RecipeError(f"{protocol.where(('data',))} keeps no examples out of training (--split train)")
    return (source, "train") if held_out is None else (held_out, "held_out")
