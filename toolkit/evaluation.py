"""Evaluating a trained pipeline: which data, which metrics, and where the scores go."""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from toolkit.data.source import DataSource
from toolkit.errors import RecipeError
from toolkit.files import write_json
from toolkit.metric import Metric, Score, Subject
from toolkit.pipeline import Pipeline
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.recipe.sections import SECTIONS, Section
from toolkit.registry import Registry

Split = Literal["held_out", "train"]
DATA = next(section for section in SECTIONS if section.name == "data")
METRICS = Section("metrics", "toolkit.metric:Metric", per_role=True, required=True)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A score, and the protocol without which it means nothing."""

    metric: str
    score: Score
    protocol: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """A JSON file whose name tells protocols apart: another protocol replaces no score."""
        digest = hashlib.sha256(json.dumps(self.protocol, sort_keys=True).encode()).hexdigest()[:8]
        path = folder / f"{self.metric}-{digest}.json"
        score = {
            "values": dict(self.score.values),
            "curves": {k: list(v) for k, v in self.score.curves.items()},
        }
        write_json(path, {"metric": self.metric, **score, "protocol": self.protocol})
        return path


def read_protocol(
    data: str | Path, metrics: Sequence[str], overrides: Sequence[str], registry: Registry
) -> Recipe:
    """The [data] of a recipe, and a [metrics.<name>] for each metric, under `--set` overrides.

    Raises:
        RecipeError: if one of them is wrong, or a flag sets anything else.
    """
    types = [f"metrics.{name}.type={name}" for name in metrics]
    layers = read_layers(data, [*types, *overrides])
    for name in metrics:
        layers.origins["metrics", name] = layers.origins["metrics", name, "type"] = f"--metrics {name}"
    flags = {path[0] for path, origin in layers.origins.items() if origin.startswith("--set")}
    wanted = {
        "data",
        "metrics",
        *flags,
    }  # other sections of the file are none of ours, those of flags mistakes
    values = {name: table for name, table in layers.values.items() if name in wanted}
    return resolve(dataclasses.replace(layers, values=values), registry, (DATA, METRICS))


def evaluate(
    pipeline: Pipeline,
    protocol: Recipe,
    split: Split | None = None,
    progress: Callable[[str, int, int], None] = lambda metric, done, total: None,
) -> Iterator[Scored]:
    """Score a pipeline by every metric of a protocol, one after the other.

    Args:
        pipeline: on the device that computes.
        protocol: from `read_protocol`.
        split: "held_out" or "train" examples of the data; None takes those held out where there are any.
        progress: is told the metric, and how many of how many parts of its work are done.

    Raises:
        RecipeError: if the data has no held-out examples, or other shapes than the pipeline.
    """
    source, chosen = real_examples(protocol, split)
    shape = tuple(pipeline.description.sample_shape)
    if tuple(source.image_shape) != shape:
        raise RecipeError(
            f"{protocol.where(('data',))} has examples of {tuple(source.image_shape)}, but the model "
            f"makes {shape}"
        )
    supplied = {
        "schedule": pipeline.schedule, "sample_shape": shape, "image_shape": shape,
        "num_classes": pipeline.description.num_classes,
    }  # fmt: skip
    made: dict[str, Metric] = {
        name: protocol.create(("metrics", name), supplied) for name in protocol.tables["metrics"]
    }
    for name, metric in made.items():

        def told(done: int, total: int, name: str = name) -> None:
            progress(name, done, total)

        score = metric.measure(Subject(pipeline, source, told))
        yield Scored(name, score, {
            "metric": protocol.tables["metrics"][name],
            "data": protocol.component(("data",)),
            "split": chosen,
            "sampler": pipeline.description.tables["sampler"],
            "weights": dict(pipeline.description.about),
            "toolkit": importlib.metadata.version("diffusion-toolkit"),
        })  # fmt: skip


def real_examples(protocol: Recipe, split: Split | None) -> tuple[DataSource, Split]:
    """The examples to compare with, and which split they are.

    Raises:
        RecipeError: if there are no held-out ones, and they are asked for.
    """
    source: DataSource = protocol.create(("data",), {})
    held_out = None if split == "train" else source.held_out()
    if split == "held_out" and held_out is None:
        raise RecipeError(f"{protocol.where(('data',))} keeps no examples out of training (--split train)")
    return (source, "train") if held_out is None else (held_out, "held_out")
