"""A network that samples nothing, as a folder.

network.json             what it is made of: its complete recipe table, shapes, plugins
weights.safetensors      its state
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from toolkit.description import Description
from toolkit.errors import CheckpointError
from toolkit.files import new_folder, sha256_of_state, write_json, write_tensors
from toolkit.pipeline_folder import plugins_of, read_weights
from toolkit.registry import Registry
from toolkit.stated import FORMAT, StatedNetwork, read_stated


@dataclass(frozen=True)
class SavedNetwork:
    """A trained network, and what there is to know of it.

    Attributes:
        network: in eval mode and frozen when it was loaded.
        description: its table as `tables["network"]`, the shape of examples, the classes, and more facts.
    """

    network: nn.Module
    description: Description

    @property
    def identity(self) -> str:
        """A hash of all that its output depends on: its table, the shape of examples, and its weights."""
        facts = [self.description.tables["network"], list(self.description.sample_shape)]
        return sha256_of_state(self.network.state_dict(), facts)


def save_network(saved: SavedNetwork, folder: Path, registry: Registry) -> None:
    """Write a network folder, replacing an earlier one."""
    described = saved.description
    with new_folder(folder, replace=True) as temporary:
        write_json(temporary / "network.json", {
            "format": FORMAT,
            "toolkit": importlib.metadata.version("diffusion-toolkit"),
            **dict(described.about),
            "sample_shape": list(described.sample_shape),
            "num_classes": described.num_classes,
            "plugins": plugins_of(described, registry),
            "network": described.tables["network"],
        })  # fmt: skip
        write_tensors(temporary / "weights.safetensors", saved.network.state_dict())


def load_network(path: str | Path) -> SavedNetwork:
    """Read a network folder, or the one network in a run folder; nothing in it is executed.

    Raises:
        CheckpointError: if there is none, or several, or it is damaged.
        PluginError: naming the plugin that it needs and that is not installed.
        RecipeError: if its component refuses its options.
    """
    from toolkit import plugins

    folder, loaded = locate(Path(path)), plugins.load()
    file = folder / "network.json"
    description = read_stated(file, StatedNetwork, loaded).description("network")

    def located(path: tuple[str, ...]) -> str:
        return f"{file}: [{'.'.join(('network', *path))}]"

    network: nn.Module = loaded.registry.create(
        nn.Module, description.tables["network"], supplied=description.supplied(), where=located
    )
    read_weights(folder, network, CheckpointError)
    return SavedNetwork(network.eval().requires_grad_(False), description)


def locate(folder: Path) -> Path:
    """The folder with network.json: this one, or the only one of a run.

    Raises:
        CheckpointError: if there is none, or a choice.
    """
    if (folder / "network.json").is_file():
        return folder
    found = sorted(file.parent for file in folder.glob("networks/*/network.json"))
    if len(found) > 1:
        raise CheckpointError(f"{folder}: has several networks, choose one: {', '.join(map(str, found))}")
    if not found:
        what = "no network here, neither network.json nor networks/" if folder.exists() else "no such folder"
        raise CheckpointError(f"{folder}: {what}")
    return found[0]
