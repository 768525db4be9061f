"""The smallest settings for `toolkit plugin test ddgan`."""

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit import DataSource, Denoiser, Objective, testing
from toolkit_ddgan.discriminator import TransitionDiscriminator

CHAIN = {"type": "vp_sde", "num_train_timesteps": 4}
UNET = {"block_out_channels": [8, 8], "layers_per_block": 1, "latent_width": 4, "mapping_width": 8}
BLOCKS = {
    "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4, "dropout": 0.1,
}  # fmt: skip
GROUPS = "its last block is told how much the images of a group differ, as published"
WIDTH = {"width": 8}
RECIPE = """
[data]
type = "gaussians25"
length = 64
[schedule]
type = "vp_sde"
num_train_timesteps = 4
[objective]
type = "ddgan"
r1_gamma = 0.1
r1_every = 2
x0_weight = 0.5
l1_weight = 0.5
[networks.denoiser]
type = "ddgan_mlp_generator"
width = 8
[networks.discriminator]
type = "ddgan_mlp_discriminator"
width = 8
[networks.x0_discriminator]
type = "ddgan_mlp_discriminator"
width = 8
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[optimizers.discriminator]
type = "adam"
lr = 1e-3
[optimizers.x0_discriminator]
type = "adam"
lr = 1e-3
[ema.denoiser]
decay = 0.9
start = "first_step"
"""


def cases() -> list[testing.Case]:
    generator = {"mapping_layers": 1, **UNET}
    return [
        testing.Case(DataSource, "stacked_mnist", {"source": {"type": "digits"}, "length": 200}),
        testing.Case(
            Denoiser, "ddgan_generator", {**generator, "attention_sides": [4], "dropout": 0.1}, schedule=CHAIN
        ),
        testing.Case(Denoiser, "ddgan_light_generator", {**generator, **BLOCKS}, schedule=CHAIN),
        testing.Case(Denoiser, "ddgan_mlp_generator", WIDTH, sample_shape=(2,), schedule=CHAIN),
        *(convolutional(f"ddgan_{size}_discriminator") for size in ("small", "large")),
        testing.Case(
            TransitionDiscriminator,
            "ddgan_mlp_discriminator",
            WIDTH,
            sample_shape=(2,),
            schedule=CHAIN,
            inputs=pairs((2,)),
        ),
        testing.Case(Objective, "ddgan", recipe=RECIPE),
    ]


def convolutional(name: str) -> testing.Case:
    shape = (3, 8, 8)
    declares = {"check_rows_do_not_leak": GROUPS}
    return testing.Case(
        TransitionDiscriminator,
        name,
        {"channels": 4, "time_width": 8},
        sample_shape=shape,
        schedule=CHAIN,
        inputs=pairs(shape),
        declares=declares,
    )


def pairs(shape: tuple[int, ...]) -> Callable[[int], tuple[Tensor, ...]]:
    """x_s, x_t and t."""
    return lambda n: (torch.randn(n, *shape), torch.randn(n, *shape), torch.arange(n) % 4)
