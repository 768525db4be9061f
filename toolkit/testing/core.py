"""Cases for the core's own components, run by `toolkit plugin test toolkit`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolkit.data.source import DataSource
from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.sampler import Sampler
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.start import Start
from toolkit.diffusion.timesteps import TimestepSampler
from toolkit.hf.autoencoder import write_untrained
from toolkit.testing.case import CHAIN, Case
from toolkit.training.objective import DenoisingLoss, Objective

TINY_UNET = {
    "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "dropout": 0.1,
}  # fmt: skip


PATHS: dict[str, dict[str, Any]] = {
    name: {"type": name} for name in ("rectified_flow", "edm", "vp", "cosine")
}
# Name, options and steps: each needs its own number of steps for a small enough error.
ON_ANY_PATH: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("ancestral", {}, 200),
    ("ancestral", {"variance": "fixed_large"}, 200),
    ("ddim", {}, 200),
    ("ddim", {"eta": 1.0}, 200),
    ("dpm_solver", {}, 60),
)
SHIFTED = "never reaches sigma = 1 / num_train_timesteps: its last step is longer than its others"
MAPS = "is for denoisers that lead to x_0 in one step, not for those that estimate its mean"
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "rectified_flow"
[objective]
type = "denoising"
[objective.loss]
type = "squared_error"
target = "flow"
[objective.timesteps]
type = "stratified"
[networks.denoiser]
type = "unet"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
add_attention = false
prediction = "flow"
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
[ema.denoiser]
decay = 0.9
[sampler]
type = "euler"
num_inference_steps = 5
"""


def _autoencoder(folder: Path) -> dict[str, Any]:
    write_untrained(folder / "autoencoder")
    return {"path": str(folder / "autoencoder")}


def cases() -> list[Case]:
    return [
        Case(DataSource, "digits", {"size": 10, "fit": "pad"}),
        Case(DataSource, "folder", pictures(lambda folder: {"path": str(folder), "held_out_fraction": 0.25})),
        Case(DataSource, "datasets", pictures(lambda folder: {"path": str(folder)})),
        Case(NoiseSchedule, "linear", {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}),
        Case(NoiseSchedule, "betas", {"betas": [0.1, 0.5, 0.9, 0.95]}),
        Case(NoiseSchedule, "betas", {"betas": [1.0]}),
        Case(NoiseSchedule, "vp_sde", {"num_train_timesteps": 4}),
        *(Case(NoiseSchedule, name) for name in ("rectified_flow", "edm", "vp", "cosine")),
        Case(Denoiser, "unet", TINY_UNET),
        Case(
            Denoiser,
            "unet",
            {**TINY_UNET, "prediction": "v_prediction", "learned_variance": True, "conditional": True},
            num_classes=3,
        ),
        Case(Denoiser, "unet", {**TINY_UNET, "attention_heads": 2, "init": "zero_last"}),
        Case(Denoiser, "unet", {**TINY_UNET, "prediction": "flow"}, schedule=PATHS["rectified_flow"]),
        Case(Denoiser, "unet", {**TINY_UNET, "conditional": True, "null_class": True}, num_classes=3),
        *(Case(TimestepSampler, "uniform", schedule=path) for path in (CHAIN, PATHS["vp"])),
        *(Case(TimestepSampler, "stratified", schedule=path) for path in (CHAIN, PATHS["cosine"])),
        Case(TimestepSampler, "logit_normal", {"shift": 3.0}, schedule=PATHS["rectified_flow"]),
        Case(TimestepSampler, "log_normal", schedule=PATHS["edm"]),
        *(Case(DenoisingLoss, "squared_error", {"target": target}) for target in ("noise", "x0", "velocity")),
        Case(DenoisingLoss, "squared_error", {"target": "flow"}, schedule=PATHS["rectified_flow"]),
        Case(DenoisingLoss, "squared_error", {"weighting": {"type": "min_snr"}}),
        Case(
            DenoisingLoss,
            "squared_error",
            {"target": "x0", "weighting": {"type": "edm"}},
            schedule=PATHS["edm"],
        ),
        Case(Objective, "denoising", recipe=RECIPE),
        Case(Encoder, "diffusers_autoencoder", _autoencoder),
        *(
            Case(Sampler, name, options, schedule=path, steps=steps)
            for name, options, steps in ON_ANY_PATH
            for path in (CHAIN, *PATHS.values())
        ),
        *(Case(Sampler, "euler", schedule=path, steps=200) for path in PATHS.values()),
        *(Case(Sampler, "heun", schedule=path, steps=50) for path in PATHS.values()),
        *(
            Case(
                Sampler, "consistency", schedule=path, steps=4, declares={"check_gaussian_is_recovered": MAPS}
            )
            for path in (CHAIN, *PATHS.values())
        ),
        Case(Sampler, "diffusers", {"scheduler": "DDPMScheduler"}, steps=200),
        Case(Sampler, "diffusers", {"scheduler": "DPMSolverMultistepScheduler"}, steps=20),
        Case(
            Sampler,
            "diffusers",
            {"scheduler": "FlowMatchEulerDiscreteScheduler"},
            schedule=PATHS["rectified_flow"],
            steps=100,
            declares={"check_gaussian_is_recovered": SHIFTED},
        ),
        *(Case(Start, "noise", schedule=path) for path in (CHAIN, PATHS["edm"])),
    ]


def pictures(table: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """Options of a source that reads a folder, which is filled with pictures: two classes of four."""

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
