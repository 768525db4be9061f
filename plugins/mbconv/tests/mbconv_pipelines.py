"""Small denoisers and pipelines of MBConv blocks."""

from typing import Any

import torch

from toolkit import Chain, NoiseSchedule, Pipeline
from toolkit.pipeline.folder import Saved
from toolkit.registry import load as plugins
from toolkit_mbconv.denoiser import MBConvUNet

NETWORK: dict[str, Any] = {
    "block_out_channels": (8, 16), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 8,
}  # fmt: skip


def schedule() -> NoiseSchedule:
    return Chain(torch.linspace(1e-3, 0.3, 20, dtype=torch.float64))


def network(
    shape: tuple[int, ...] = (3, 8, 8),
    classes: int | None = None,
    path: NoiseSchedule | None = None,
    **options: Any,
) -> MBConvUNet:
    torch.manual_seed(0)
    return MBConvUNet(path or schedule(), shape, classes, **{**NETWORK, **options})


def pipeline(**options: Any) -> Pipeline:
    """A pipeline with `init = "torch"`, so that every weight matters to its images."""
    stated = {**NETWORK, "expansion": 4, "se": 0.25, "init": "torch", **options}
    tables = {
        "schedule": {"type": "linear", "num_train_timesteps": 20, "beta_start": 1e-3, "beta_end": 0.3},
        "network": {"type": "mbconv_unet"} | {key: listed(value) for key, value in stated.items()},
        "sampler": {"type": "ancestral", "clip": True},
        "start": {"type": "noise"},
    }
    torch.manual_seed(0)
    return Pipeline.from_saved(
        Saved(sample_shape=(3, 8, 8), num_classes=None, **tables), plugins.load().registry, "here"
    )


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
