"""The smallest settings for `toolkit plugin test ddpm`."""

from toolkit import Denoiser, Objective, Sampler, testing

CLAMPED = "clamps x_s and adds no noise at t = 1: errors that are kept to repeat results made with them"
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "linear"
num_train_timesteps = 20
beta_start = 1e-3
beta_end = 0.5
[objective]
type = "denoising"
[networks.denoiser]
type = "dilated_conv"
width = 8
layers = 2
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
clip_norm = 1.0
[ema.denoiser]
decay = 0.9
"""


def cases() -> list[testing.Case]:
    return [
        testing.Case(Denoiser, "ddpm_mlp", {"width": 8}, sample_shape=(2,)),
        testing.Case(
            Denoiser,
            "ddpm_mlp",
            {"width": 8, "prediction": "flow"},
            sample_shape=(2,),
            schedule={"type": "rectified_flow"},
        ),
        testing.Case(Denoiser, "dilated_conv", {"width": 8, "layers": 2}),
        testing.Case(Sampler, "clamped_ancestral", declares={"check_gaussian_is_recovered": CLAMPED}),
        testing.Case(Objective, "denoising", recipe=RECIPE),
    ]
