"""What may change between a run and its resumption, and what makes it another run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import CheckpointError, RunError
from toolkit.recipe import Recipe, read_layers, resolve

# Neither the mathematics nor the data order depends on these.
FREE = {
    ("run", "steps"), ("run", "images"), ("run", "minutes"), ("run", "out"), ("run", "log_every"),
    ("run", "measure_every"), ("run", "device"), ("data", "path"), ("data", "in_memory_mb"),
    ("data", "workers"), ("samples",), ("checkpoints",), ("trackers",), ("sampler",), ("initialiser",),
}  # fmt: skip


def differences(stored: Path, recipe: Recipe) -> list[str]:
    """What in `recipe` makes it another run than that of the stored recipe, one phrase each."""
    before = resolve(read_layers(stored), registry=recipe.registry).tables
    return list(_compare(before, recipe.tables, ()))


def refuse_another_recipe(recipe: Recipe, stored: Path) -> None:
    """A run can be resumed longer, elsewhere or with other cadences, but not as another run.

    Raises:
        RunError: if there is no run.
        CheckpointError: naming what differs from the run's stored recipe.
    """
    if not stored.is_file():
        raise RunError(f"{stored.parent}: there is no run to resume")
    differing = differences(stored, recipe)
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise CheckpointError(f"{stored.parent}: its checkpoints are of another recipe: {shown}")


def _compare(before: Any, after: Any, path: tuple[str, ...]) -> Iterator[str]:
    if path in FREE:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            yield from _compare(before.get(key), after.get(key), (*path, key))
    elif before != after:
        yield f"{'.'.join(path)} was {before!r} and is {after!r}"
