"""The smallest settings of the core's own components, for `toolkit plugin test toolkit`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolkit.data.source import DataSource
from toolkit.denoiser import Denoiser
from toolkit.sampler import Sampler
from toolkit.schedule import NoiseSchedule
from toolkit.testing import Case

TINY_UNET = {
    "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "dropout": 0.1,
}  # fmt: skip


def cases() -> list[Case]:
    return [
        Case(DataSource, "digits", {"size": 10, "fit": "pad"}),
        Case(DataSource, "folder", pictures(lambda folder: {"path": str(folder), "held_out_fraction": 0.25})),
        Case(DataSource, "datasets", pictures(lambda folder: {"path": str(folder)})),
        Case(NoiseSchedule, "linear", {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}),
        Case(NoiseSchedule, "betas", {"betas": [0.1, 0.5, 0.9, 0.95]}),
        Case(NoiseSchedule, "betas", {"betas": [1.0]}),
        Case(Denoiser, "unet", TINY_UNET),
        Case(
            Denoiser,
            "unet",
            {**TINY_UNET, "prediction": "v_prediction", "learned_variance": True, "conditional": True},
            num_classes=3,
        ),
        Case(Sampler, "ancestral"),
        Case(Sampler, "ancestral", {"variance": "fixed_large"}),
        Case(Sampler, "ddim", {"num_inference_steps": 50}),
        Case(Sampler, "ddim", {"eta": 1.0}),
        Case(Sampler, "diffusers", {"scheduler": "DDPMScheduler", "num_inference_steps": 200}),
        Case(Sampler, "diffusers", {"scheduler": "DPMSolverMultistepScheduler", "num_inference_steps": 20}),
    ]


def pictures(table: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """The same table, of a folder in which there are pictures: two classes of four."""

    def options(folder: Path) -> dict[str, Any]:
        from PIL import Image

        generator = torch.Generator().manual_seed(0)
        for name in ("cats", "dogs"):
            (folder / name).mkdir()
            for i in range(4):
                pixels = torch.randint(256, (10, 10, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")
        return table(folder)

    return options
