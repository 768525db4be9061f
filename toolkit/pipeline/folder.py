"""A trained model as a folder: its description and its weights. Nothing in such a folder is executed.

pipeline.json                  a `Saved`: recipe tables, shapes, plugins; network.json if it samples nothing
weights.safetensors            the network's state, except what the files of a `Layout` hold
start/, guidance/, encoder/    models inside these parts, by option
README.md                      the user's, or a plugin's model card; kept when the folder is replaced

A folder may also have the files of a `Layout`, by which another library can open it. Paths in pipeline.json
are relative, so the folder can be moved as a whole.
"""

import importlib.metadata
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from torch import Tensor, nn

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.guidance import Guidance
from toolkit.diffusion.sampler import GridOptions, Sampler
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Saveable, Start
from toolkit.errors import CheckpointError, PluginError, printable
from toolkit.files import (
    digest,
    mismatch,
    new_folder,
    read_json,
    read_tensors,
    read_text,
    refuse_foreign,
    settle,
    sha256_of,
    write_json,
    write_tensors,
    write_text,
)
from toolkit.registry.load import Plugins, load
from toolkit.registry.registry import Registry
from toolkit.registry.tables import Table, Where
from toolkit.runs.layout import checkpoints_in

FORMAT = 1
README = "README.md"
SUFFIX = ".safetensors"
WEIGHTS = f"weights{SUFFIX}"
MANIFEST = "manifest.json"  # of a checkpoint
RESULTS = ("pipeline.json", "pipeline", "model_index.json", "network.json", "networks")  # of a run, in order
NETWORKS = (["network.json"], ["networks"])
HUB_SECONDS = 5.0
Weights = Literal["ema", "raw"]
INNER = ("start", "guidance", "encoder")  # parts that may have models inside, in folders of these names
FILES = ("pipeline.json", "network.json", WEIGHTS, README, *INNER)
PARTS: Mapping[str, type] = {
    "schedule": NoiseSchedule,
    "network": nn.Module,
    "sampler": Sampler,
    "start": Start,
    "guidance": Guidance,
    "encoder": Encoder,
}
OPTIONAL = ("guidance", "encoder")
COMMON: Mapping[str, type] = {"sampler": GridOptions}  # options that the toolkit reads from a part's table

Refuse = Callable[[str], Exception]


class Saved(BaseModel):
    """The description of a saved network or pipeline, as in its JSON file: enough to build it again.

    Attributes:
        format: version of the file format.
        toolkit: version of the toolkit that wrote it.
        role: of the network in its run.
        weights: "ema" or "raw", or where they come from.
        steps: training steps.
        recipe: the name of its recipe.
        sample_shape: of what the network denoises, e.g. (3, 32, 32).
        image_shape: of one image, where an encoder decodes samples to images; else None.
        num_classes: None for unlabelled data.
        class_names: None where the data does not name its classes.
        pictures: False for other numbers of the shape of a picture, which are neither clamped nor scaled.
        digests: SHA-256 of the files of weights in its folder.
        plugins: the plugins whose components it uses, each with its distribution.
        network: complete recipe table. A pipeline also has those of `schedule`, `sampler` and `start`, and
            of `guidance` and `encoder` if it uses them.
    """

    model_config = ConfigDict(frozen=True)

    format: Annotated[int, Field(strict=True, ge=FORMAT, le=FORMAT)] = FORMAT
    toolkit: str = Field(default_factory=lambda: importlib.metadata.version("diffusion-toolkit"))
    role: Annotated[str, Field(pattern=r"^\w*$")] = ""
    weights: str = ""
    steps: int | None = None
    recipe: str = ""
    sample_shape: tuple[PositiveInt, ...]
    num_classes: PositiveInt | None
    class_names: list[str] | None = None
    pictures: Annotated[bool, Field(strict=True)] = True
    plugins: dict[str, str] = Field(default_factory=dict)
    digests: dict[str, str] = Field(default_factory=dict)
    schedule: dict[str, Any] | None = None
    network: dict[str, Any]
    sampler: dict[str, Any] | None = None
    start: dict[str, Any] | None = None
    guidance: dict[str, Any] | None = None
    encoder: dict[str, Any] | None = None
    image_shape: tuple[PositiveInt, ...] | None = None

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The tables of its parts, by the names in `PARTS`."""
        return {name: table for name in PARTS if (table := getattr(self, name)) is not None}

    @property
    def model(self) -> dict[str, Any]:
        """Which weights these are: role, weights, steps, recipe."""
        facts = {name: getattr(self, name) for name in ("role", "weights", "steps", "recipe")}
        return {name: value for name, value in facts.items() if value not in ("", None)}

    def supplied(self, schedule: NoiseSchedule | None = None) -> dict[str, Any]:
        """The values that constructors of its parts may ask for by name."""
        return {"schedule": schedule, "sample_shape": self.sample_shape, "num_classes": self.num_classes}

    def within(self, folder: Path, registry: Registry, where: object) -> dict[str, dict[str, Any]]:
        """The complete tables of its parts; paths, which are relative to `folder`, lead to places inside it.

        A folder that is loaded is all that is read: it may be a stranger's.

        Raises:
            RecipeError: if a table is wrong, or it names what is outside, a path or a data set on the Hub.
        """
        return {name: self._complete(name, registry, where, folder)[0].plain for name in self.tables}

    def build(self, name: str, registry: Registry, supplied: Mapping[str, Any], where: object) -> Any:
        """Build the part of that name; a network has fresh weights.

        Raises:
            PluginError: if a component is of no installed plugin.
            RecipeError: if a component refuses its options.
        """
        table, located = self._complete(name, registry, where)
        return table.build(supplied, located)

    def _complete(
        self, name: str, registry: Registry, where: object, home: Path | None = None
    ) -> tuple[Table, Where]:
        """The complete table of a part, and the place of each of its keys for messages."""

        def located(path: tuple[str, ...]) -> str:
            return f"{where}: [{'.'.join((name, *path))}]"

        kind, table, common = PARTS[name], self.tables[name], COMMON.get(name)
        return registry.complete(kind, table, located, common=common, home=home), located


def read_saved(path: Path, plugins: Plugins, *parts: str) -> Saved:
    """Read pipeline.json or network.json.

    Raises:
        CheckpointError: if it is damaged, of another format, or lacks one of the `parts`.
        PluginError: naming a plugin that is missing.
        RecipeError: if a component does not take its options, or one names what is outside the folder.
    """
    content = read_json(path)
    if type(content.get("format")) is int and content["format"] != FORMAT:
        written = f"is of format {content['format']}, of toolkit {printable(str(content.get('toolkit')))}"
        this = importlib.metadata.version("diffusion-toolkit")
        raise CheckpointError(f"{path}: {written}; this is {this}, which reads {FORMAT}")
    try:
        required = {"plugins": None, "format": None, "digests": None}
        saved = Saved.model_validate_json(json.dumps({**required, **content}), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise CheckpointError(f"{path}: is damaged, or of another version: {where}: {first['msg']}") from None
    for name in parts:
        if name not in saved.tables:
            raise CheckpointError(f"{path}: is damaged, or of another version: {name}: Field required")
    working = {report.owner.name for report in plugins.reports if report.error is None}
    off = {owner.name for owner in plugins.switched_off}
    for name, source in saved.plugins.items():
        needs = f"{path.parent}: needs plugin {printable(repr(name))} of {printable(source)}"
        if name in off:
            raise PluginError(f"{needs}, which is switched off.")
        if name not in working:
            raise PluginError(f"{needs}, which is not installed, or broken (toolkit plugins tells).")
    tables = saved.within(path.parent, plugins.registry, path)
    return saved.model_copy(update={"plugins": {}, "digests": {}, **tables})  # they follow


def plugins_of(tables: Mapping[str, dict[str, Any]], registry: Registry) -> dict[str, str]:
    """The plugins whose components these tables name, nested ones included, with their distributions."""
    result: dict[str, str] = {}

    def visit(kind: type, table: Any) -> None:
        component = registry.component(kind, table["type"])
        result[component.owner.name] = component.owner.source
        for option in component.options:
            inner = table.get(option.name)
            if option.nested is not None and inner is not None:
                several = inner if option.many is list else inner.values() if option.many else [inner]
                for nested in several:
                    if isinstance(nested, dict):  # not the plain value that it may be instead
                        visit(option.nested, nested)

    for name, table in tables.items():
        visit(PARTS[name], table)
    result.pop("toolkit", None)  # it reads the folder, so it is there
    return result


class Layout(ABC):
    """Another library's layout of a trained model in a folder.

    A folder in this layout is read as a pipeline. A pipeline that the library would sample correctly is also
    written in it, beside our own files.
    """

    files: tuple[str, ...] = ()  # the names it uses at the top of a pipeline folder

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether a folder without pipeline.json is in this layout."""

    @abstractmethod
    def read(self, folder: Path, registry: Registry) -> tuple[Saved, dict[str, Tensor]]:
        """The description of the same model in our terms, and its network's state.

        Raises:
            CheckpointError: if the model is not supported, or damaged.
        """

    def write(self, folder: Path, saved: Saved, denoiser: Denoiser, sampler: Sampler, start: Start) -> None:
        """Write the files that the library opens; none where it would sample something else."""
        return None

    def state(self, folder: Path, network: nn.Module) -> dict[str, Tensor] | None:
        """The part of the network's state that `write` keeps, read from `folder`; None if there is none.

        Raises:
            CheckpointError: if it belongs to another network.
        """
        return None

    def holds(self, network: nn.Module) -> frozenset[str]:
        """The names in the network's state that `write` saves, which weights.safetensors then leaves out."""
        return frozenset()


def layouts(registry: Registry) -> list[Layout]:
    """All registered layouts."""
    return [component.factory() for component in registry.components(Layout).values()]


@dataclass(frozen=True)
class SavedNetwork:
    """A trained network and its description.

    Attributes:
        network: in eval mode and frozen, if it was loaded from a folder.
        saved: its table, the shape of examples, the classes, and more.
    """

    network: nn.Module
    saved: Saved

    @property
    def identity(self) -> str:
        """A hash of everything its output depends on: its table, the shape of examples, and its weights."""
        return digest([self.saved.network, list(self.saved.sample_shape)], self.network.state_dict())

    def save_pretrained(self, path: str | Path) -> None:
        """Write a network folder, replacing an earlier one."""
        save_network(self, Path(path), load().registry)


def save_network(network: SavedNetwork, folder: Path, registry: Registry) -> None:
    """Write a network folder, replacing an earlier one.

    Raises:
        RunError: if the folder holds anything else, or cannot be written.
    """
    refuse_to_replace(folder, [])
    with new_folder(folder, replace=True) as temporary:
        write_tensors(temporary / WEIGHTS, network.network.state_dict())
        _write_saved(temporary / "network.json", network.saved, registry)


def load_network(path: str | Path) -> SavedNetwork:
    """Read a network folder, or the one network in a run folder.

    Returns:
        The network on the CPU, in eval mode and frozen.

    Raises:
        CheckpointError: if there is no network, if there are several, or if it is damaged.
        PluginError: naming a plugin that it needs and that is not installed.
        RecipeError: if its component refuses its options.
    """
    folder, plugins = locate_network(Path(path)), load()
    saved = read_saved(folder / "network.json", plugins)
    network: nn.Module = saved.build("network", plugins.registry, saved.supplied(), folder / "network.json")
    read_weights(folder, network, plugins.registry, CheckpointError)
    return SavedNetwork(network.eval().requires_grad_(False), saved)


def locate_network(folder: Path) -> Path:
    """The folder with network.json: this one, or the only one of a run.

    Raises:
        CheckpointError: if there is none, or more than one.
    """
    settle(folder)
    if (folder / "network.json").is_file():
        return folder
    result = sorted(file.parent for file in folder.glob("networks/*/network.json"))
    if len(result) > 1:
        raise CheckpointError(f"{folder}: has several networks, choose one: {', '.join(map(str, result))}")
    if not result:
        what = "no network here, neither network.json nor networks/" if folder.exists() else "no such folder"
        raise CheckpointError(f"{folder}: {what}")
    return result[0]


def _write_saved(path: Path, saved: Saved, registry: Registry, *, digested: bool = True) -> None:
    # A checkpoint's are in its manifest.
    files = _tensor_files(path.parent) if digested else []
    digests = {file.relative_to(path.parent).as_posix(): sha256_of(file) for file in files}
    facts = {"digests": digests, "plugins": plugins_of(saved.tables, registry)}
    content = {**saved.model_dump(mode="json"), **facts}
    optional = ("schedule", "sampler", "start", "guidance", "encoder", "class_names", "image_shape")
    if saved.pictures:
        del content["pictures"]
    write_json(path, {name: v for name, v in content.items() if v is not None or name not in optional})


def write_pipeline(
    folder: Path,
    saved: Saved,
    denoiser: Denoiser,
    sampler: Sampler,
    start: Start,
    inner: Mapping[str, Mapping[str, Saveable]],
    registry: Registry,
    readme: str | None,
) -> None:
    """Write a pipeline folder as a whole, replacing an earlier one; a README.md that lies there is kept.

    Args:
        folder: where it will be.
        saved: its description.
        denoiser: whose weights are written.
        sampler: its sampler.
        start: its start.
        inner: the models inside its parts, by part and option, to be written with it.
        registry: of the components.
        readme: text of README.md if there is none yet; None writes none.

    Raises:
        RunError: if the folder holds anything other than a pipeline, or cannot be written.
    """
    folder = folder.absolute()
    known, relative = layouts(registry), whole(saved, inner, registry)
    refuse_to_replace(folder, known)
    with new_folder(folder, replace=True) as temporary:
        for part, models in inner.items():
            for option, model in models.items():
                model.save_pretrained(temporary / part / option)
        elsewhere: frozenset[str] = frozenset()
        for layout in known:
            layout.write(temporary, saved, denoiser, sampler, start)
            elsewhere |= layout.holds(denoiser)
        state = denoiser.state_dict()
        own = {name: tensor for name, tensor in state.items() if name not in elsewhere}
        write_tensors(temporary / WEIGHTS, own)
        _write_saved(temporary / "pipeline.json", relative, registry)
        text = text_of(folder / README) or readme
        if text is not None:
            write_text(temporary / README, text)


def whole(saved: Saved, inner: Mapping[str, Mapping[str, Saveable]], registry: Registry) -> Saved:
    """The description as its folder will have it, where the models inside its parts lie in folders below.

    Raises:
        RecipeError: if it would name what is outside, which nobody could load.
    """
    tables = {
        part: {**saved.tables[part], **{option: f"{part}/{option}" for option in models}}
        for part, models in inner.items()
    }
    relative = saved.model_copy(update=tables)
    relative.within(Path.cwd() / "pipeline", registry, "a saved pipeline")
    return relative


def text_of(path: Path) -> str | None:
    own = path.is_file() and not path.is_symlink()  # a link's target may be anything that the user can read
    return read_text(path, errors="replace") if own else None


def read_pipeline(
    path: str | Path, plugins: Plugins, weights: Weights | None = None
) -> tuple[Saved, Path, dict[str, Tensor] | None]:
    """A pipeline's description and folder, and its network's state if the folder is in a foreign layout.

    Raises:
        CheckpointError: if there is no pipeline, or it is damaged.
        PluginError: naming a plugin that is missing.
    """
    folder = locate(path, plugins.registry, weights)
    if not (folder / "pipeline.json").is_file():
        layout = next(one for one in layouts(plugins.registry) if one.recognises(folder))
        saved, state = layout.read(folder, plugins.registry)
        return _chosen(folder, saved, weights), folder, state
    saved = read_saved(folder / "pipeline.json", plugins, *(name for name in PARTS if name not in OPTIONAL))
    return _chosen(folder, saved, weights), folder, None


def _chosen(folder: Path, saved: Saved, weights: Weights | None) -> Saved:
    """The description with the weights that are chosen among those of its folder.

    Raises:
        CheckpointError: if it does not have them.
    """
    kinds = [*states(folder, saved.role)] if (folder / MANIFEST).is_file() else [saved.weights]
    if weights is not None and weights not in kinds:
        raise CheckpointError(
            f"{folder}: has no {weights} weights, but {' and '.join(kinds)}; checkpoints of a run have both"
        )
    return saved.model_copy(update={"weights": weights or next(iter(kinds), "")})


def describe_checkpoint(
    folder: Path, saved: Saved, inner: Mapping[str, Mapping[str, Saveable]], registry: Registry
) -> None:
    """Write pipeline.json into a checkpoint, by which it can be sampled, unless it has models inside."""
    if not any(inner.values()):
        _write_saved(folder / "pipeline.json", saved, registry, digested=False)


def refuse_to_replace(folder: Path, known: list[Layout]) -> None:
    """Refuse to replace anything but an earlier pipeline: the folder is replaced as a whole.

    Raises:
        RunError: if `folder` is a file, or holds something else.
    """
    ours = {*FILES, *(name for layout in known for name in layout.files)}
    refuse_foreign(folder, lambda names: [name for name in names if name not in ours], "pipeline", "folder")
    for inner in (path for part in ("start", "guidance") for path in (folder / part).glob("*")):
        refuse_to_replace(inner, known)


def locate(path: str | Path, registry: Registry, weights: Weights | None = None) -> Path:
    """The folder of a pipeline: `path`, the pipeline/ in it, a checkpoint, or a download of that Hub id.

    The newest checkpoint of a run stands in for its pipeline while there is none, or if `weights` are chosen.

    Raises:
        CheckpointError: if there is no such folder and no such model on the Hub.
    """
    folder, known = Path(path), layouts(registry)
    settle(folder)
    newest = _checkpoints(folder)[-1:]
    candidates = [*(newest if weights else []), folder, folder / "pipeline", *newest]
    for candidate in candidates:
        ours = (candidate / "pipeline.json").is_file()
        if ours or any(layout.recognises(candidate) for layout in known):
            return candidate
    if (folder / "network.json").is_file() or (folder / "networks").is_dir():
        raise CheckpointError(f"{folder}: its network samples nothing: toolkit.load_network reads it")
    if folder.exists():
        raise CheckpointError(
            f"{folder}: no pipeline here: neither pipeline.json nor model_index.json, also not in pipeline/"
        )
    if str(path).count("/") != 1 or str(path).startswith((".", "/")):
        raise CheckpointError(f"{folder}: no such folder")
    return _download(str(path))


def _checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, in order of step."""
    return [path for path in checkpoints_in(run / "checkpoints") if (path / MANIFEST).is_file()]


def _download(repo_id: str) -> Path:
    """The files of a model on the Hub, of which one question, of a few seconds, asks whether it has it."""
    from huggingface_hub import HfApi, snapshot_download

    files = ["*.json", "*.safetensors"]
    try:
        try:
            revision = HfApi().model_info(repo_id, timeout=HUB_SECONDS).sha
        except Exception:  # no connection, no such model, no permission: an earlier download may be there
            return Path(snapshot_download(repo_id, allow_patterns=files, local_files_only=True))
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files))
    except Exception as error:  # of httpx, huggingface_hub, the system
        raise CheckpointError(
            f"{repo_id}: is no folder here, and the Hub does not have it or cannot be reached"
        ) from error


def read_weights(
    source: str | Path,
    network: nn.Module,
    registry: Registry,
    refuse: Refuse,
    role: str = "",
    weights: Weights | None = None,
) -> None:
    """Load the weights of anything that can be sampled or loaded into `network`, of the same architecture.

    Args:
        source: see `locate`; or a network folder, or a run that keeps one network.
        network: into which they are loaded.
        registry: of the layouts that folders may have.
        refuse: makes an exception of the reason.
        role: of the network in a checkpoint.
        weights: raw or averaged, where there are both; by default the averaged ones.

    Raises:
        Exception: made by `refuse` of the reason, if a tensor is missing, extra or of another shape, or if
            weights are not those that were saved.
    """
    try:
        folder, state = _state(source, network, registry, role, weights)
    except CheckpointError as error:
        raise refuse(str(error)) from None
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise refuse(f"{error.filename or source}: {error.strerror or error}") from None
    if mismatch(network.state_dict(), state) is None:
        _verify(folder, refuse)
    fill(network, state, folder, refuse)


def _state(
    source: str | Path, network: nn.Module, registry: Registry, role: str, weights: Weights | None
) -> tuple[Path, dict[str, Tensor]]:
    folder = Path(source)
    kept, results = _checkpoints(folder), [name for name in RESULTS if (folder / name).exists()]
    if kept and (weights or not results):
        folder = kept[-1]
    elif not (folder / MANIFEST).is_file():
        folder = locate_network(folder) if results[:1] in NETWORKS else locate(source, registry, weights)
    if (folder / MANIFEST).is_file():
        files = states(folder, role)
        chosen = weights or next(iter(files), None)
        if chosen not in files:
            raise CheckpointError(f"{folder}: has no {chosen or 'weights'} of a network {role!r}")
        return folder, read_tensors(files[chosen])
    if not any((folder / name).is_file() for name in ("pipeline.json", "network.json")):
        layout = next(one for one in layouts(registry) if one.recognises(folder))
        return folder, layout.read(folder, registry)[1]
    state = read_tensors(folder / WEIGHTS)
    for part in _elsewhere(folder, network, registry):
        state |= part
    return folder, state


def states(checkpoint: Path, role: str) -> dict[Weights, Path]:
    """The files of a role's weights in a checkpoint: averaged ones, if it has them, and raw ones."""
    names: dict[Weights, str] = {"ema": "ema", "raw": "networks"}
    files = {kind: checkpoint / name / f"{role}.safetensors" for kind, name in names.items()}
    return {kind: file for kind, file in files.items() if file.is_file()}


def _verify(folder: Path, refuse: Refuse) -> None:
    """Compare files of weights with the digests that were saved with them: a flipped bit is still a number.

    Raises:
        Exception: made by `refuse` of the reason, naming the file that is missing, altered or new.
    """
    names = (name for name in (MANIFEST, "pipeline.json", "network.json") if (folder / name).is_file())
    described = next(names, None)
    if described is None:
        return  # a foreign folder, which has no digests
    content = read_json(folder / described, refuse)
    listed = content if described == MANIFEST else content.get("digests")
    if not isinstance(listed, dict):
        raise refuse(f"{folder / described}: has no digests of the weights: save it again with this version")
    digests = {name: one.get("sha256") if isinstance(one, dict) else one for name, one in listed.items()}
    present = {path.relative_to(folder).as_posix(): path for path in _tensor_files(folder)}
    for name in sorted(present.keys() | {name for name in digests if name.endswith(SUFFIX)}):
        if name not in present:
            raise refuse(f"{folder}: {printable(name)} is missing")
        try:
            altered = sha256_of(present[name]) != digests.get(name)
        except OSError as error:
            raise refuse(f"{present[name]}: cannot be read: {error.strerror or error}") from None
        if altered:
            raise refuse(f"{folder}: {printable(name)} was altered, its checksum is not that in {described}")


def _tensor_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob(f"*{SUFFIX}"))
    return [file for file in files if not file.name.startswith(".")]


def _elsewhere(folder: Path, network: nn.Module, registry: Registry) -> Iterator[dict[str, Tensor]]:
    for layout in layouts(registry):
        if (part := layout.state(folder, network)) is not None:
            yield part


def fill(network: nn.Module, state: Mapping[str, Tensor], folder: Path, refuse: Refuse) -> None:
    """Load exactly the complete state: a weight that was left out would stay random.

    Raises:
        Exception: made by `refuse` of the reason, if a tensor is missing, extra or of another shape.
    """
    own = network.state_dict()
    if problem := mismatch(own, state):
        raise refuse(f"{folder}: is of another architecture: {problem}")
    for name, tensor in state.items():
        if not tensor.isfinite().all() and own[name].isfinite().all():
            raise refuse(f"{folder}: {name!r} is not finite")
    network.load_state_dict(dict(state))
