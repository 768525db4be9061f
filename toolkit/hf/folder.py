"""diffusers' layout of pipelines of a UNet2DModel, e.g. google/ddpm-cifar10-32, read and written.

unet/              a UNet2DModel in diffusers' own format, if the denoiser is one
scheduler/         its scheduler, if diffusers has one that samples as we do
model_index.json   only if a pipeline of diffusers would sample it correctly, which none does with classes
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.diffusion.chain import Chain
from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.samplers import Ancestral
from toolkit.diffusion.start import Noise, Start
from toolkit.errors import CheckpointError, RecipeError, ToolkitError, one_line, printable
from toolkit.files import mismatch, read_json, read_tensors, write_json, write_tensors
from toolkit.hf.lean import unet_class
from toolkit.hf.schedulers import LIMITS, DiffusersSampler, options_of, scheduler_class
from toolkit.hf.unet import UNET_LIMITS, UNetDenoiser
from toolkit.pipeline.folder import Layout, Saved
from toolkit.registry import values
from toolkit.registry.registry import Registry
from toolkit.registry.signature import Positive

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX, CONFIG = "model_index.json", "config.json"
PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
CONVERTED = {"DDIMPipeline": "DDIMScheduler", "PNDMPipeline": "PNDMScheduler"}  # whatever scheduler they get
# Options whose effect on samples ours do not have, and the values at which they have none.
UNSUPPORTED_UNET = {"center_input_sample": False, "class_embed_type": None}
UNSUPPORTED_DDPM = {"thresholding": False, "clip_sample_range": 1.0, "steps_offset": 0}
# Types of the keys that are read from unet/config.json, besides UNET_LIMITS, and scheduler_config.json.
Side = Annotated[int, Field(ge=1, le=2**14)]  # of an image; a larger one is a slip, and takes all the memory
UNET_KEYS = {
    "sample_size": Side | tuple[Side, Side],
    "in_channels": Positive,
    "out_channels": Positive,
    "num_class_embeds": Positive,
}
Beta = Annotated[float, Field(gt=0, le=1)]
SCHEDULER_KEYS = {
    "num_train_timesteps": Annotated[int, Field(ge=1, le=10**5)],  # the longest published chains have 4000
    "beta_start": Beta,
    "beta_end": Beta,
    "beta_schedule": Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"],
    "trained_betas": list[Beta],
    "rescale_betas_zero_snr": bool,
    "prediction_type": Literal["epsilon", "sample", "v_prediction"],
    "variance_type": str,
    "clip_sample": bool,
    "thresholding": bool,
    "set_alpha_to_one": bool,
    **LIMITS,
}
STEPS = 50  # the default of DDIMPipeline and PNDMPipeline, and more than most solvers need
ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}  # before diffusers 0.15


@final
class DiffusersLayout(Layout):
    """Folders of DDPMPipeline, DDIMPipeline and PNDMPipeline with a UNet2DModel."""

    files = ("unet", "scheduler", INDEX)

    def recognises(self, folder: Path) -> bool:
        return (folder / INDEX).is_file()

    def read(self, folder: Path, registry: Registry) -> tuple[Saved, dict[str, Tensor]]:
        """As `Layout.read`; opens nothing but JSON and safetensors.

        Raises:
            CheckpointError: if it is another pipeline, has another network, or only pickled weights; if a
                value in its files is not supported, or the weights do not fit the network.
        """
        try:
            return self._read(folder, registry)
        except ToolkitError:
            raise
        except Exception as error:  # whatever the values in its files lead to
            raise CheckpointError(
                f"{folder}: nothing can be made of its values: {one_line(error)}"
            ) from error

    def _read(self, folder: Path, registry: Registry) -> tuple[Saved, dict[str, Tensor]]:
        index = read_json(folder / INDEX)
        name, unet = index.get("_class_name"), index.get("unet")
        if name not in PIPELINES or unet != ["diffusers", "UNet2DModel"]:
            raise CheckpointError(
                f"{folder / INDEX}: is a {printable(str(name))} with unet {printable(str(unet))}; only "
                f"{' and '.join(PIPELINES)} with diffusers' own UNet2DModel can be read"
            )
        for part, module in index.items():
            known = part == "unet" or (part == "scheduler" and isinstance(module, list) and len(module) == 2)
            if (
                not part.startswith("_")
                and not (known and module[0] == "diffusers")
                and module != [None, None]
            ):
                raise CheckpointError(f"{folder}: its {printable(part)} is {module!r}, which is not read")
        # Older folders have the parts at the top.
        unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
        scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
        state = {f"model.{name}": tensor for name, tensor in state_of(unet_folder).items()}
        files = {"unet": unet_folder / CONFIG, "scheduler": scheduler_folder / "scheduler_config.json"}
        config, scheduler = (read_json(path) for path in files.values())
        if (kind := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
            raise CheckpointError(
                f"{files['unet']}: is of a {printable(str(kind))}, not of diffusers' UNet2DModel"
            )
        refuse_values(config, UNET_KEYS, files["unet"], optional=("num_class_embeds",))
        refuse_values(scheduler, SCHEDULER_KEYS, files["scheduler"], optional=(
            "trained_betas", "variance_type", *LIMITS,
        ))  # fmt: skip
        listed = index.get("scheduler") or [None, None]  # as diffusers does, before what the file itself says
        if (kind := CONVERTED.get(str(name), listed[1])) is not None:
            scheduler = {**scheduler, "_class_name": kind}
        tables = {
            "schedule": {"type": "betas", "betas": betas_of(scheduler, files["scheduler"])},
            "network": _network(config, scheduler, files["unet"]),
            "sampler": _sampler(name, scheduler, files["scheduler"]),
            "start": {"type": "noise"},
        }
        saved = Saved(
            role="denoiser", weights="as saved by diffusers", recipe=folder.name,
            sample_shape=_shape(config, files["unet"]), 
            num_classes=config.get("num_class_embeds"), **tables,  # type: ignore[arg-type]
        )  # fmt: skip
        _refuse_misfit(saved, state, registry, files)
        return saved, state

    def write(self, folder: Path, saved: Saved, denoiser: Denoiser, sampler: Sampler, start: Start) -> None:
        unet = _unet(denoiser)
        if unet is None:
            return
        import diffusers

        unet.save_config(folder / "unet")
        write_tensors(folder / "unet" / UNET_WEIGHTS, unet.state_dict())
        result = None if saved.guidance or saved.encoder else scheduler_of(sampler, saved)
        if result is None or not isinstance(start, Noise) or type(unet) is not unet_class():
            return  # diffusers could open it, and would sample something else
        assert isinstance(denoiser, UNetDenoiser)
        pipeline, scheduler = result
        scheduler.register_to_config(prediction_type=denoiser.prediction)
        scheduler.save_pretrained(folder / "scheduler")
        if denoiser.conditional:
            return  # no pipeline of diffusers hands labels to a UNet2DModel; scripts do, with these folders
        write_json(folder / INDEX, {
            "_class_name": pipeline,
            "_diffusers_version": diffusers.__version__,
            "scheduler": ["diffusers", type(scheduler).__name__],
            "unet": ["diffusers", "UNet2DModel"],
        })  # fmt: skip

    def state(self, folder: Path, network: nn.Module) -> dict[str, Tensor] | None:
        path = folder / "unet" / UNET_WEIGHTS
        if not path.is_file():
            return None
        if _unet(network) is None:
            kind = type(network).__name__
            raise CheckpointError(f"{folder}: holds a UNet2DModel, which {kind} is not")
        prefix = _prefix(network)
        return {prefix + name: tensor for name, tensor in read_tensors(path).items()}

    def holds(self, network: nn.Module) -> frozenset[str]:
        if (unet := _unet(network)) is None:
            return frozenset()
        return frozenset(_prefix(network) + name for name in unet.state_dict())


def _unet(network: nn.Module) -> Any:
    return network.unet() if isinstance(network, UNetDenoiser) else None


def _prefix(network: nn.Module) -> str:
    """The prefix of the UNet2DModel's names in the network's state."""
    unet = _unet(network)
    return next(f"{name}." if name else "" for name, module in network.named_modules() if module is unet)


def to_scheduler(schedule: Chain, **config: Any) -> "DDPMScheduler":
    """diffusers' DDPMScheduler for a whole chain; `config` holds its other arguments (`variance_type`, ...).

    Raises:
        ValueError: for a respaced chain; in diffusers the scheduler's `set_timesteps` chooses timesteps.
    """
    if len(schedule.timesteps) != schedule.num_train_timesteps:
        raise ValueError("a respaced schedule has no scheduler: take that of the whole chain")
    from diffusers import DDPMScheduler

    options = {"clip_sample": False, **config}
    return DDPMScheduler(schedule.num_train_timesteps, trained_betas=schedule.betas.tolist(), **options)


def scheduler_of(sampler: Sampler, saved: Saved) -> tuple[str, Any] | None:
    """The diffusers pipeline and scheduler that sample as `sampler` does; None if there is none."""
    if isinstance(sampler, DiffusersSampler):
        return sampler.saveable
    if not isinstance(sampler, Ancestral):
        return None
    chain, table = sampler.schedule, saved.sampler or {}
    steps, spacing = table.get("num_inference_steps"), table.get("spacing") or "leading"
    if not isinstance(chain, Chain) or len(chain.timesteps) != chain.num_train_timesteps:
        return None  # a respaced chain cannot be described to diffusers by betas
    if isinstance(steps, list) or spacing in ("strided", "ddim"):
        return None  # diffusers would visit other timesteps
    if spacing == "trailing" and sampler.variance == "fixed_large":
        return None  # diffusers would add noise to the last image, whose timestep is not 0
    config = {"variance_type": sampler.variance, "clip_sample": sampler.clip}
    return "DDPMPipeline", to_scheduler(chain, **config, timestep_spacing=spacing)


def weights_of(folder: Path) -> list[Path]:
    """The files of the weights: whole or in shards, of full precision if there are several.

    Raises:
        CheckpointError: if there are none, or a shard's name leads out of the folder.
    """
    stem = UNET_WEIGHTS.removesuffix(".safetensors")
    variants = [
        p for p in sorted(folder.glob(f"{stem}.*")) if re.fullmatch(rf"{stem}\.\w+\.safetensors", p.name)
    ]
    if whole := [path for path in (folder / UNET_WEIGHTS, *variants) if path.is_file()]:
        return whole[:1]
    for index in sorted(folder.glob(f"{stem}.safetensors.index*.json")):
        shards = read_json(index).get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else []
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise CheckpointError(f"{index}: weight_map must map weights to the names of files beside it")
        return [folder / name for name in dict.fromkeys(names)]
    raise CheckpointError(f"{folder}: has no {UNET_WEIGHTS}; pickled weights (.bin) are not opened")


def state_of(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder of diffusers, by the names that it has for them today.

    Raises:
        CheckpointError: if there are none, or they cannot be read.
    """
    files = weights_of(folder)
    return {_today(name): tensor for file in files for name, tensor in read_tensors(file).items()}


def _today(key: str) -> str:
    """A weight's name in current diffusers; older folders name those of attention differently."""
    return re.sub(
        r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)", lambda result: ATTENTION[result[1]], key
    )


def refuse_values(
    config: dict[str, Any], types: Mapping[str, Any], path: Path, optional: tuple[str, ...] = ()
) -> None:
    """Refuse values that diffusers never writes: it would fail on them in obscure ways.

    Raises:
        CheckpointError: naming the file and the key.
    """
    for key, kind in types.items():
        if key not in config or (key in optional and config[key] is None):
            continue
        try:
            values.parse(kind, config[key])
        except values.Mismatch as problem:
            raise CheckpointError(f"{path}: {key} must be {values.expected(kind)}, {problem}") from None


def _refuse_misfit(
    saved: Saved, state: Mapping[str, Tensor], registry: Registry, files: Mapping[str, Path]
) -> None:
    """Build all parts once, the network without memory for weights, before memory is spent on them.

    Raises:
        CheckpointError: naming the file, if a part cannot be built, or the weights do not fit the network.
    """
    try:
        path = files["scheduler"]
        schedule = saved.build("schedule", registry, saved.supplied(), path)
        saved.build("sampler", registry, saved.supplied(schedule), path)
        path = files["unet"]
        with torch.device("meta"):
            network = saved.build("network", registry, saved.supplied(schedule), path)
    except RecipeError as error:
        raise CheckpointError(str(error).splitlines()[0]) from error
    if problem := mismatch(network.state_dict(), state):
        raise CheckpointError(f"{path}: is of another architecture than the weights beside it: {problem}")


def betas_of(config: dict[str, Any], path: Path) -> list[float]:
    """The betas of a scheduler's configuration, as diffusers itself computes them.

    Raises:
        CheckpointError: naming the file at `path`, if it is of another scheduler or diffusers refuses it.
    """
    name = str(config.get("_class_name", "DDPMScheduler"))
    total, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    if betas is not None and len(betas) != total:
        raise CheckpointError(
            f"{path}: trained_betas has {len(betas)} betas, but num_train_timesteps is {total}"
        )
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
            "rescale_betas_zero_snr")  # fmt: skip
    try:
        made = scheduler_class(name)
        takes = inspect.signature(made).parameters
        scheduler = made(**{key: config[key] for key in keys if key in config and key in takes})
    except Exception as error:  # diffusers may raise anything on a damaged file
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: no {printable(name)} can be made of it: {reason}") from error
    return [float(beta) for beta in scheduler.betas.double()]


def _network(config: dict[str, Any], declared: dict[str, Any], path: Path) -> dict[str, Any]:
    _refuse(config, UNSUPPORTED_UNET, f"{path}: its UNet2DModel")
    table = {key: value for key, value in config.items() if key in UNET_LIMITS}
    return {
        "type": "unet",
        **table,
        "prediction": declared.get("prediction_type", "epsilon"),
        "conditional": config.get("num_class_embeds") is not None,
    }


def _sampler(pipeline: str, declared: dict[str, Any], path: Path) -> dict[str, Any]:
    """Ours for DDPM's scheduler, and diffusers' own for the others."""
    name = declared.get("_class_name", "DDPMScheduler")
    if name != "DDPMScheduler":
        total = declared.get("num_train_timesteps", 1000)
        # With an offset, T steps on a chain of length T would lead beyond its end; some solvers take fewer.
        most = total - declared.get("steps_offset", 0) if name == "DDIMScheduler" else total // 2
        steps = most if (pipeline, name) == ("DDPMPipeline", "DDIMScheduler") else min(STEPS, most)
        return {
            "type": "diffusers",
            "scheduler": name,
            "num_inference_steps": max(1, steps),
            "options": options_of(name, declared),
        }
    _refuse(declared, UNSUPPORTED_DDPM, f"{path}: its DDPMScheduler")
    variance = declared.get("variance_type", "fixed_small")
    if variance not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise CheckpointError(f"{path}: its DDPMScheduler has variance_type {variance!r}, which is not read")
    return {
        "type": "ancestral",
        "clip": declared.get("clip_sample", True),
        "variance": variance.removesuffix("_log"),
        "spacing": declared.get("timestep_spacing", "leading"),
    }


def _refuse(declared: dict[str, Any], neutral: dict[str, Any], whose: str) -> None:
    for key, value in neutral.items():
        if declared.get(key, value) != value:
            raise CheckpointError(f"{whose} has {key} = {declared[key]!r}, which is not read")


def _shape(config: dict[str, Any], path: Path) -> tuple[int, ...]:
    size = config.get("sample_size")
    if size is None:
        raise CheckpointError(f"{path}: does not state its sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    channels = config.get("in_channels", 3)
    if config.get("out_channels", 3) != channels:
        out = config.get("out_channels", 3)
        raise CheckpointError(f"{path}: out_channels = {out} is not read where in_channels = {channels}")
    return (channels, height, width)
