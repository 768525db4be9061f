"""`from_run` of [networks.<role>]: the architecture of a network of an earlier run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from toolkit.errors import RecipeError
from toolkit.pipeline.folder import Saved, locate_network, read_saved
from toolkit.registry.flag import FlagValue
from toolkit.registry.load import load
from toolkit.registry.values import Mismatch, parse


def expand(table: Mapping[str, Any]) -> dict[str, Any]:
    """The complete table for one with `from_run`: the saved network's options, then those it sets itself.

    A table without `from_run` is returned as it is.

    Raises:
        ToolkitError: if there is no saved network, or an option contradicts it.
    """
    if _plain(table.get("from_run")) is None:
        return dict(table)
    if _plain(table.get("init_from")) is not None:
        raise RecipeError("brings its weights: leave 'init_from' out.")
    try:
        path: Path = parse(Path, table["from_run"])
    except Mismatch as mismatch:
        raise RecipeError(f"must be a path, {mismatch}") from None
    written = saved_network(path).network
    # Completed like the table of a saved folder: options of the component only, and no init_from to follow.
    saved = load().registry.complete(nn.Module, written, lambda inner: f"{path}: {'.'.join(inner)}").plain
    for key, value in table.items():
        if key in saved and _plain(value) != saved[key]:
            raise RecipeError(f"{path} has {key} = {saved[key]}, and it cannot be another: leave it out.")
    return {**saved, **table}


def saved_network(path: Path) -> Saved:
    """The `Saved` of the network in a run, pipeline or network folder.

    Raises:
        CheckpointError: if there is no network, if there are several, or if it is damaged.
        PluginError: naming a plugin that it needs.
    """
    for folder in (path, path / "pipeline"):
        if (folder / "pipeline.json").is_file():
            return read_saved(folder / "pipeline.json", load())
    return read_saved(locate_network(path) / "network.json", load())


def refuse_misfit(path: Path, supplied: Mapping[str, Any], schedule: Mapping[str, Any] | None) -> None:
    """Refuse a network of another schedule or other data, which would silently be misused.

    Raises:
        RecipeError: naming what differs.
    """
    saved = saved_network(path)
    if saved.schedule is not None and saved.schedule != schedule:
        other = {key: value for key, value in saved.schedule.items() if (schedule or {}).get(key) != value}
        listed = ", ".join(f"{key} = {value}" for key, value in other.items())
        raise RecipeError(f"{path} was trained on another [schedule], with {listed}")
    if tuple(saved.sample_shape) != tuple(supplied["sample_shape"]):
        shapes = f"{tuple(saved.sample_shape)}, and these are of {tuple(supplied['sample_shape'])}"
        raise RecipeError(f"{path} was trained on samples of shape {shapes}")
    if saved.num_classes != supplied["num_classes"]:
        raise RecipeError(
            f"{path} was trained on {saved.num_classes or 'no'} classes, and this data has "
            f"{supplied['num_classes'] or 'none'}"
        )


def _plain(value: Any) -> Any:
    """A value of a recipe as saved folders write it: None for "none"."""
    value = value.value if isinstance(value, FlagValue) else value
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value == "none" else value
