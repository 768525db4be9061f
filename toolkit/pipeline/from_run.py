"""`from_run`: a network of an earlier run, for [networks.<role>] or as the [encoder]."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.start import Saveable
from toolkit.errors import CheckpointError, RecipeError
from toolkit.files import digest
from toolkit.pipeline.folder import PARTS, Saved, SavedNetwork, locate_network, read_saved, read_weights
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


def trained(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of an [encoder] that says `from_run`, and need not say more."""
    return {"type": "trained", **table}


@final
class TrainedEncoder(Encoder):
    """The encoder that an earlier run trained.

    Args:
        from_run: its run, pipeline or network folder.

    Raises:
        CheckpointError: if there is no network, if it is damaged, or if it encodes nothing.
        PluginError: naming a plugin that it needs.
    """

    def __init__(self, from_run: Path) -> None:
        super().__init__()
        registry, saved = load().registry, saved_network(from_run)
        schedule = saved.build("schedule", registry, {}, from_run) if saved.schedule else None
        network = saved.build("network", registry, saved.supplied(schedule), from_run)
        if not isinstance(network, Encoder):
            raise CheckpointError(
                f"{from_run}: its network is a {type(network).__name__}, not an autoencoder"
            )
        read_weights(from_run, network, registry, CheckpointError)
        parts = {name: None for name in PARTS if name not in ("network", "schedule")}
        self.network, self._saved = network, saved.model_copy(update=parts)

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        return self.network.latent_shape(image_shape)

    def encode(self, images: Tensor) -> Tensor:
        return self.network.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents)

    def folders(self) -> Mapping[str, Saveable]:
        return {"from_run": SavedNetwork(self.network, self._saved)}


def saved_network(path: Path) -> Saved:
    """The `Saved` of the network in a run, pipeline or network folder.

    Raises:
        CheckpointError: if there is no network, if there are several, if it is damaged, or if the system does
            not let us look there.
        PluginError: naming a plugin that it needs.
    """
    try:
        for folder in (path, path / "pipeline"):
            if (folder / "pipeline.json").is_file():
                return read_saved(folder / "pipeline.json", load())
        return read_saved(locate_network(path) / "network.json", load())
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: {error.strerror or error}") from None


def refuse_misfit(
    path: Path, supplied: Mapping[str, Any], schedule: Mapping[str, Any] | None, encoder: Encoder | None
) -> None:
    """Refuse a network of another schedule, encoder or other data, which would silently be misused.

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
    if (saved.image_shape is None) != (encoder is None):
        kinds = ("images", "latents of an [encoder]")
        raise RecipeError(
            f"{path} was trained on {kinds[encoder is None]}, and these are {kinds[encoder is not None]}"
        )
    if saved.encoder is not None and encoder is not None:
        theirs = saved.build("encoder", load().registry, {}, path)
        if digest(theirs.state_dict()) != digest(encoder.state_dict()):
            raise RecipeError(f"{path} was trained on latents of another [encoder]: its weights are others")


def _plain(value: Any) -> Any:
    """A value of a recipe as saved folders write it: None for "none"."""
    value = value.value if isinstance(value, FlagValue) else value
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value == "none" else value
