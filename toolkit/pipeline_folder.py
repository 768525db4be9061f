"""A pipeline as a folder that this toolkit reads, and diffusers too where it can sample it.

pipeline.json            what it is made of: complete recipe tables, shapes, plugins
weights.safetensors      the network's state, less what lies in unet/
unet/                    a UNet2DModel in diffusers' own format, for a denoiser that is one
scheduler/, model_index.json   only if diffusers.DDPMPipeline would sample it right
initialiser/             pipelines that the initialiser samples, each such a folder
README.md                a model card, see toolkit.card

Paths in pipeline.json are relative to the folder, which can be moved as a whole.
"""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from toolkit.card import CARD, card_of, kept_card
from toolkit.denoiser import Denoiser
from toolkit.description import Description
from toolkit.errors import CheckpointError, RunError
from toolkit.files import new_folder, read_tensors, write_json, write_tensors, write_text
from toolkit.initialiser import Initialiser, Noise
from toolkit.pipeline import Pipeline
from toolkit.recipe.toml import printable
from toolkit.registry import Registry
from toolkit.sampler import Sampler
from toolkit.schedule import NoiseSchedule
from toolkit.stated import FORMAT, StatedPipeline, read_stated

INNER = "initialiser"
FILES = ("pipeline.json", "weights.safetensors", "unet", "scheduler", "model_index.json", CARD, INNER)
KINDS = {"schedule": NoiseSchedule, "network": nn.Module, "sampler": Sampler, "initialiser": Initialiser}
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"


def save_pipeline(pipeline: Pipeline, folder: Path, registry: Registry) -> None:
    """Write `folder` as a whole, replacing an earlier pipeline."""
    folder = folder.absolute()
    refuse_to_replace(folder)
    with new_folder(folder, replace=True) as temporary:
        description = pipeline.description
        tables = dict(description.tables)
        for option, inner in pipeline.initialiser.pipelines().items():
            inner.save_pretrained(temporary / INNER / option)
            tables["initialiser"] = {**tables["initialiser"], option: f"{INNER}/{option}"}
        write_json(temporary / "pipeline.json", {
            "format": FORMAT,
            "toolkit": importlib.metadata.version("diffusion-toolkit"),
            **dict(description.about),
            "sample_shape": list(description.sample_shape),
            "num_classes": description.num_classes,
            "plugins": plugins_of(description, registry),
            **{kind: tables[kind] for kind in KINDS},
        })  # fmt: skip
        state, prefix = pipeline.denoiser.state_dict(), _unet_prefix(pipeline.denoiser)
        own = {key: t for key, t in state.items() if prefix is None or not key.startswith(prefix)}
        write_tensors(temporary / "weights.safetensors", own)
        if (unet := pipeline.denoiser.unet()) is not None:
            _save_for_diffusers(pipeline, unet, temporary)
        write_text(temporary / CARD, kept_card(folder) or pipeline.card or card_of(temporary))


def refuse_to_replace(folder: Path) -> None:
    """Replace an earlier pipeline only: the folder goes as a whole.

    Raises:
        RunError: if there is a file, or a folder that holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder for a pipeline")
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if foreign := [name for name in present if name not in FILES]:
        raise RunError(f"{folder}: holds other files ({foreign[0]}), choose another folder for the pipeline")
    for inner in (folder / INNER).glob("*"):
        refuse_to_replace(inner)


def _save_for_diffusers(pipeline: Pipeline, unet: Any, folder: Path) -> None:
    import diffusers

    unet.save_config(folder / "unet")
    write_tensors(folder / "unet" / UNET_WEIGHTS, unet.state_dict())
    scheduler = pipeline.sampler.scheduler()
    if (
        scheduler is None
        or not isinstance(pipeline.initialiser, Noise)
        or type(unet) is not diffusers.UNet2DModel
    ):
        return  # diffusers could open it, and would sample something else
    scheduler.register_to_config(prediction_type=pipeline.denoiser.prediction_type())
    scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", type(scheduler).__name__],
        "unet": ["diffusers", "UNet2DModel"],
    })  # fmt: skip


def load_pipeline(path: str | Path) -> Pipeline:
    """Read a pipeline folder, the one inside a run folder, a foreign diffusers folder, or one on the Hub."""
    from toolkit import plugins

    folder = locate(path)
    loaded = plugins.load()
    registry = loaded.registry
    if not (folder / "pipeline.json").is_file():
        from toolkit.diffusers_folder import load_diffusers

        return load_diffusers(folder, registry)
    stated = read_stated(folder / "pipeline.json", StatedPipeline, loaded)
    stated.initialiser = beneath(folder, stated.initialiser, registry)
    pipeline = Pipeline.from_description(stated.description(*KINDS), registry, str(folder / "pipeline.json"))
    read_weights(folder, pipeline.denoiser, CheckpointError)
    if (folder / CARD).is_file():
        pipeline.card = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    return pipeline


def beneath(folder: Path, table: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """The initialiser's table with paths, which are relative to `folder`, made whole.

    Raises:
        CheckpointError: if one leads out of the folder, or to the folder itself, which would never end.
    """
    component = registry.components(Initialiser).get(str(table.get("type")))
    paths = {option.name for option in component.options if option.annotation is Path} if component else set()
    stated = {name: value for name, value in table.items() if name in paths and isinstance(value, str)}
    return table | {name: str(inside(folder, value, f"initialiser.{name}")) for name, value in stated.items()}


def inside(folder: Path, stated: str, key: str) -> Path:
    """What pipeline.json means by a path, links followed: a saved folder holds all that it is made of."""
    whole = folder.resolve()
    try:
        found = (whole / stated).resolve()
        found.exists()  # asks the system whether there can be such a name
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a null byte
        found = whole
    if whole not in found.parents:
        file, shown = folder / "pipeline.json", printable(stated)
        raise CheckpointError(f"{file}: {key} must be a folder inside this one, not {shown!r}")
    return found


def locate(path: str | Path) -> Path:
    """The folder of a pipeline: `path`, the pipeline/ in it, or a download of that hub id.

    Raises:
        CheckpointError: if there is no such folder and no such model on the Hub.
    """
    folder = Path(path)
    for candidate in (folder, folder / "pipeline"):
        if (candidate / "pipeline.json").is_file() or (candidate / "model_index.json").is_file():
            return candidate
    if (folder / "network.json").is_file() or (folder / "networks").is_dir():
        raise CheckpointError(f"{folder}: its network samples nothing: toolkit.load_network reads it")
    if folder.exists():
        raise CheckpointError(
            f"{folder}: no pipeline here: neither pipeline.json nor model_index.json, also not in pipeline/"
        )
    if str(path).count("/") != 1 or str(path).startswith((".", "/")):
        raise CheckpointError(f"{folder}: no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: no such folder, and not to be had from the Hub: {reason}") from None


def read_weights(folder: Path, network: nn.Module, refuse: Callable[[str], Exception]) -> None:
    """Load the weights in a pipeline's, a network's or a run's folder into one of the same architecture.

    Raises:
        Exception: what `refuse` makes of the reason, if a tensor is missing, extra or of another shape.
    """
    if not (folder / "weights.safetensors").is_file():  # a run
        inner = [path for path in (folder / "pipeline", *folder.glob("networks/*")) if path.is_dir()]
        folder = inner[0] if len(inner) == 1 else folder
    state = read_tensors(folder / "weights.safetensors", refuse)
    if (folder / "unet" / UNET_WEIGHTS).is_file():
        prefix = _unet_prefix(network)
        if prefix is None:
            raise refuse(f"{folder}: holds a UNet2DModel, which {type(network).__name__} is not")
        state |= {prefix + k: t for k, t in read_tensors(folder / "unet" / UNET_WEIGHTS, refuse).items()}
    fill(network, state, folder, refuse)


def fill(
    network: nn.Module, state: dict[str, Tensor], folder: Path, refuse: Callable[[str], Exception]
) -> None:
    """Load a complete state and nothing else: a weight that is left out would stay random."""
    expected = network.state_dict()
    for name in sorted(expected.keys() ^ state.keys()):
        has = "lacks" if name in expected else "has, and the network lacks,"
        raise refuse(f"{folder}: is of another architecture: it {has} {name!r}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            there, here = tuple(tensor.shape), tuple(expected[name].shape)
            raise refuse(f"{folder}: is of another architecture: {name!r} is {there} there and {here} here")
    network.load_state_dict(state)


def plugins_of(description: Description, registry: Registry) -> dict[str, str]:
    """The plugins, with their distributions, whose components the tables name, nested ones too."""
    found: dict[str, str] = {}

    def visit(kind: type, table: Any) -> None:
        component = registry.component(kind, table["type"])
        found[component.owner.name] = f"{component.owner.distribution} {component.owner.version}".strip()
        for option in component.options:
            inner = table.get(option.name)
            if option.nested is not None and inner is not None:
                several = inner if option.many is list else inner.values() if option.many else [inner]
                for nested in several:
                    visit(option.nested, nested)

    for name, table in description.tables.items():
        visit(KINDS[name], table)
    found.pop("toolkit", None)  # it reads the folder, so it is there
    return found


def _unet_prefix(network: nn.Module) -> str | None:
    """Where the UNet that diffusers knows lies in the network's state."""
    unet = network.unet() if isinstance(network, Denoiser) else None
    if unet is None:
        return None
    return next(f"{name}." if name else "" for name, module in network.named_modules() if module is unet)


def push_pipeline(pipeline: Pipeline, repo_id: str, registry: Registry, *, private: bool) -> str:
    """Upload the folder that `save_pipeline` writes."""
    import tempfile

    from toolkit.publish import publish

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pipeline"
        save_pipeline(pipeline, folder, registry)
        return publish(folder, repo_id, private=private)
