"""Resuming: which changes of the recipe are allowed, and which make it another run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from toolkit.data.source import DataSource
from toolkit.errors import CheckpointError, RunError
from toolkit.files import digest
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.runs.folder import RunFolder
from toolkit.training.trainer import RunOptions

# Neither the mathematics nor the data order depends on these. The data may have moved: its size and first
# examples, which the checkpoint records with the micro-batch size, show whether it is the same.
FREE = {
    ("run", "steps"), ("run", "images"), ("run", "minutes"), ("run", "out"), ("run", "log_every"),
    ("run", "measure_every"), ("run", "device"), ("run", "tf32"), ("run", "cudnn_benchmark"),
    ("data", "in_memory_mb"), ("data", "workers"),
    ("samples",), ("checkpoints",), ("trackers",), ("sampler",), ("start",), ("guidance",),
}  # fmt: skip


def differences(stored: Path, recipe: Recipe) -> list[str]:
    """The differences that make `recipe` another run than the stored recipe, one phrase each."""
    before = resolve(read_layers(stored), registry=recipe.registry).tables
    return list(_compare(before, recipe.tables, ()))


def refuse_another_recipe(recipe: Recipe, stored: Path) -> None:
    """Refuse to resume a run as another one; it may run longer, elsewhere, or save and log at other steps.

    Raises:
        RunError: if there is no run.
        CheckpointError: naming the differences from the run's stored recipe.
    """
    if not stored.is_file():
        raise RunError(f"{stored.parent}: there is no run to resume")
    differing = differences(stored, recipe)
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise CheckpointError(f"{stored.parent}: its checkpoints are of another recipe: {shown}")


def _compare(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[str]:
    moved = path[:1] == ("data",) and path[-1] == "path"
    if path in FREE or moved or path[0::2] == ("networks", "channels_last"):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _compare(before.get(key), after.get(key), (*path, key))
    elif before != after:
        yield f"{'.'.join(path)} was {before!r} and is {after!r}"


def last_step(options: RunOptions) -> int | None:
    """The step at which the recipe ends, by steps or images; None if only time ends it."""
    by_images = None if options.images is None else -(-options.images // options.batch_size)
    return min((end for end in (options.steps, by_images) if end is not None), default=None)


def refuse_finished(folder: RunFolder, last: int | None) -> None:
    """Raise a RunError if the run has already reached the end of the recipe."""
    step = folder.finished()
    if step is not None and last is not None and step >= last:
        raise RunError(
            f"{folder.path}: is finished, at step {step}. To go on, set run.steps (or run.images) higher"
        )


def identity(source: DataSource) -> dict[str, Any]:
    """Facts that identify a data set wherever it lies: size, shape, and a hash of the first examples."""
    images, labels = source.read(torch.arange(min(64, len(source))))
    begins_with = digest(images) if labels is None else digest(images, labels)
    return {"examples": len(source), "shape": list(source.image_shape), "begins_with": begins_with}
