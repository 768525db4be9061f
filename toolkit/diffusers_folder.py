"""Unconditional pipelines that diffusers saved, e.g. google/ddpm-cifar10-32, as pipelines of ours."""

import re
from pathlib import Path
from typing import Any

import torch

from toolkit.description import Description
from toolkit.errors import CheckpointError
from toolkit.files import read_json, read_tensors
from toolkit.pipeline import Pipeline
from toolkit.pipeline_folder import UNET_WEIGHTS, fill
from toolkit.recipe.toml import printable
from toolkit.registry import Registry

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
PARTS = {
    "unet": (["diffusers", "UNet2DModel"],),
    "scheduler": tuple(["diffusers", name] for name in SCHEDULERS),
}
# What these options do to a sample, ours do not; keys, and the values that leave them without effect.
UNSUPPORTED_UNET = {"center_input_sample": False, "class_embed_type": None, "num_class_embeds": None}
UNSUPPORTED_DDPM = {"thresholding": False, "clip_sample_range": 1.0, "steps_offset": 0}
DDIM_OPTIONS = (
    "clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "set_alpha_to_one",
    "steps_offset", "thresholding", "timestep_spacing",
)  # fmt: skip
DDIM_STEPS = 50  # what DDIMPipeline takes unless told otherwise
ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}  # before diffusers 0.15


def load_diffusers(folder: Path, registry: Registry) -> Pipeline:
    """Read a DDPMPipeline or DDIMPipeline with a UNet2DModel; nothing but JSON and safetensors is opened.

    Raises:
        CheckpointError: if it is another pipeline, has another network, or only pickled weights.
    """
    index = read_json(folder / "model_index.json")
    name, unet = index.get("_class_name"), index.get("unet")
    if name not in PIPELINES or unet != ["diffusers", "UNet2DModel"]:
        raise CheckpointError(
            f"{folder}: is a {name} with unet {unet}; only {' and '.join(PIPELINES)} with diffusers' own "
            "UNet2DModel can be read"
        )
    for part, module in index.items():
        if not part.startswith("_") and module not in PARTS.get(part, ([None, None],)):
            raise CheckpointError(f"{folder}: its {printable(part)} is {module!r}, which is not read")
    # Older folders have the parts at the top.
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    if not (unet_folder / UNET_WEIGHTS).is_file():
        raise CheckpointError(f"{unet_folder}: has no {UNET_WEIGHTS}; pickled weights (.bin) are not opened")
    config = read_json(unet_folder / "config.json")
    if (kind := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise CheckpointError(f"{unet_folder / 'config.json'}: is of a {kind}, not of diffusers' UNet2DModel")
    stated = read_json(scheduler_folder / "scheduler_config.json")
    description = Description(
        {
            "schedule": {"type": "betas", "betas": betas_of(stated, folder)},
            "network": _network(config, stated, registry, folder),
            "sampler": _sampler(name, stated, folder),
            "initialiser": {"type": "noise"},
        },
        _shape(config, unet_folder / "config.json"),
        None,
        {"role": "denoiser", "weights": "as saved by diffusers", "recipe": folder.name},
    )
    pipeline = Pipeline.from_description(description, registry, str(folder))
    state = read_tensors(unet_folder / UNET_WEIGHTS)
    fill(pipeline.denoiser, {f"model.{_today(key)}": t for key, t in state.items()}, folder, CheckpointError)
    return pipeline


def _today(key: str) -> str:
    """The name that a weight has today; older folders name those of attention differently."""
    return re.sub(
        r"(?<=\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)", lambda found: ATTENTION[found[1]], key
    )


def betas_of(stated: dict[str, Any], folder: Path) -> list[float]:
    """The betas of a scheduler's configuration, as diffusers itself computes them."""
    import diffusers

    name = stated.get("_class_name", "DDPMScheduler")
    if name not in SCHEDULERS:
        raise CheckpointError(f"{folder}: has a {name}; only {' and '.join(SCHEDULERS)} can be read")
    betas: torch.Tensor = getattr(diffusers, name).from_config(stated).betas
    return [float(beta) for beta in betas.double()]


def _network(
    config: dict[str, Any], stated: dict[str, Any], registry: Registry, folder: Path
) -> dict[str, Any]:
    _refuse(config, UNSUPPORTED_UNET, f"{folder}: its UNet2DModel")
    known = {option.name for option in registry.component(torch.nn.Module, "unet").options}
    table = {key: value for key, value in config.items() if key in known}
    return {"type": "unet", **table, "prediction": stated.get("prediction_type", "epsilon")}


def _sampler(pipeline: str, stated: dict[str, Any], folder: Path) -> dict[str, Any]:
    """DDIM by diffusers' own scheduler, whose clip_sample leaves the estimate of the noise as it was."""
    if pipeline == "DDIMPipeline" or stated.get("_class_name") == "DDIMScheduler":
        total = stated.get("num_train_timesteps", 1000)
        steps = min(DDIM_STEPS, total) if pipeline == "DDIMPipeline" else total
        given = {key: stated[key] for key in DDIM_OPTIONS if stated.get(key) is not None}
        return {
            "type": "diffusers",
            "scheduler": "DDIMScheduler",
            "num_inference_steps": steps,
            "options": {"clip_sample": True, **given},
        }
    _refuse(stated, UNSUPPORTED_DDPM, f"{folder}: its DDPMScheduler")
    variance = stated.get("variance_type", "fixed_small")
    if variance not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise CheckpointError(
            f"{folder}: its DDPMScheduler has variance_type {variance!r}, which is not read"
        )
    return {
        "type": "ancestral",
        "clip": stated.get("clip_sample", True),
        "variance": variance.removesuffix("_log"),
        "spacing": stated.get("timestep_spacing", "leading"),
    }


def _refuse(stated: dict[str, Any], neutral: dict[str, Any], whose: str) -> None:
    for key, value in neutral.items():
        if stated.get(key, value) != value:
            raise CheckpointError(f"{whose} has {key} = {stated[key]!r}, which is not read")


def _shape(config: dict[str, Any], path: Path) -> tuple[int, ...]:
    size = config.get("sample_size")
    if size is None:
        raise CheckpointError(f"{path}: does not state its sample_size")
    height, width = (size, size) if isinstance(size, int) else size
    return (config.get("in_channels", 3), height, width)
