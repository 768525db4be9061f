"""Unconditional pipelines that diffusers saved, e.g. google/ddpm-cifar10-32, as pipelines of ours."""

from pathlib import Path
from typing import Any

import torch

from toolkit.errors import CheckpointError
from toolkit.pipeline import Description, Pipeline
from toolkit.pipeline_folder import UNET_WEIGHTS, fill, read_json, read_tensors
from toolkit.registry import Registry

SAMPLERS = {"DDPMPipeline": "ancestral", "DDIMPipeline": "ddim"}


def load_diffusers(folder: Path, registry: Registry) -> Pipeline:
    """Read a DDPMPipeline or DDIMPipeline with a UNet2DModel; nothing but JSON and safetensors is opened.

    Raises:
        CheckpointError: if it is another pipeline, has another network, or only pickled weights.
    """
    index = read_json(folder / "model_index.json")
    name, unet = index.get("_class_name"), index.get("unet")
    if name not in SAMPLERS or unet != ["diffusers", "UNet2DModel"]:
        raise CheckpointError(
            f"{folder}: is a {name} with unet {unet}; only {' and '.join(SAMPLERS)} with diffusers' own "
            "UNet2DModel can be read"
        )
    # Older folders have the parts at the top.
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    if not (unet_folder / UNET_WEIGHTS).is_file():
        raise CheckpointError(f"{unet_folder}: has no {UNET_WEIGHTS}; pickled weights (.bin) are not opened")
    config = read_json(unet_folder / "config.json")
    stated = read_json(scheduler_folder / "scheduler_config.json")
    description = Description(
        {
            "schedule": {"type": "betas", "betas": betas_of(stated, folder)},
            "network": _network(config, stated, registry),
            "sampler": _sampler(SAMPLERS[name], stated),
            "initialiser": {"type": "noise"},
        },
        _shape(config),
        None,
        {"role": "denoiser", "weights": "as saved by diffusers", "recipe": folder.name},
    )
    pipeline = Pipeline.from_description(description, registry, str(folder))
    state = read_tensors(unet_folder / UNET_WEIGHTS, CheckpointError)
    fill(pipeline.denoiser, {f"model.{key}": t for key, t in state.items()}, folder, CheckpointError)
    return pipeline


def betas_of(stated: dict[str, Any], folder: Path) -> list[float]:
    """The betas of a scheduler's configuration, as diffusers itself computes them."""
    import diffusers

    name = stated.get("_class_name", "DDPMScheduler")
    if name not in ("DDPMScheduler", "DDIMScheduler"):
        raise CheckpointError(f"{folder}: has a {name}; only DDPMScheduler and DDIMScheduler can be read")
    betas: torch.Tensor = getattr(diffusers, name).from_config(stated).betas
    return [float(beta) for beta in betas.double()]


def _network(config: dict[str, Any], stated: dict[str, Any], registry: Registry) -> dict[str, Any]:
    known = {option.name for option in registry.component(torch.nn.Module, "unet").options}
    table = {key: value for key, value in config.items() if key in known}
    return {"type": "unet", **table, "prediction": stated.get("prediction_type", "epsilon")}


def _sampler(name: str, stated: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = {"type": name, "clip": stated.get("clip_sample", True)}
    if name == "ancestral":
        large = stated.get("variance_type", "fixed_small") == "fixed_large"
        table["variance"] = "fixed_large" if large else "fixed_small"
    return table


def _shape(config: dict[str, Any]) -> tuple[int, ...]:
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return (config["in_channels"], height, width)
