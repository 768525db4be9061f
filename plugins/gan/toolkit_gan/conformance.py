"""The smallest settings for `toolkit plugin test gan`."""

import torch

from toolkit import Denoiser, Objective, testing
from toolkit_gan.augmentation import Augmentation
from toolkit_gan.interfaces import Discriminator

ONE_STEP = {"type": "betas", "betas": [1.0]}
STATISTICS = "batch normalisation sees one micro-batch, and spectral norm iterates once a forward pass"
NOISE = "it adds noise whenever it is called, and is in no saved pipeline"
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "betas"
betas = [1.0]
[objective]
{objective}
[networks.generator]
type = "{family}_generator"
latent_width = 4
width = 4
{generator}
[networks.discriminator]
type = "{family}_discriminator"
width = 4
{discriminator}
[optimizers.generator]
type = "adam"
lr = 1e-3
[optimizers.discriminator]
type = "adam"
lr = 1e-3
[ema.generator]
decay = 0.5
"""
OPTIONS = """
type = "gan"
loss = "hinge"
n_dis = 2
fakes_per_real = 2
gp_weight = 1.0
r1_gamma = 0.1
drift = 0.1
penalty_every = 3
dequantise = 0.01
instance_noise = 0.1
"""
R3GAN = """
type = "gan"
loss = "relativistic"
r1_gamma = 0.1
r2_gamma = 0.1
slopes = "finite_differences"
fakes_per_real = 2
"""
BATCH = "its last block is told how much the images of a batch differ, as published"
DIFFUSION = """
type = "gan"
loss = "relativistic"
n_dis = 2
fakes_per_real = 2
r1_gamma = 0.1
augment = {type = "diffusion", every = 3, images = 100}
"""


def cases() -> list[testing.Case]:
    result = []
    for family, declares in (
        ("dcgan", {}),
        ("sngan", {}),
        ("progressive", {"check_rows_do_not_leak": BATCH}),
    ):
        result += [
            testing.Case(Denoiser, f"{family}_generator", {"latent_width": 4, "width": 4}, schedule=ONE_STEP),
            testing.Case(
                Discriminator,
                f"{family}_discriminator",
                {"width": 4},
                schedule=ONE_STEP,
                inputs=lambda n: (torch.randn(n, 1, 8, 8),),
                declares=declares,
            ),
        ]
    result += [
        testing.Case(
            Denoiser,
            "sngan_generator",
            {"latent_width": 4, "width": 4, "attention": [8], "conditional": True, "spectral_norm": True},
            num_classes=3,
            schedule=ONE_STEP,
        ),
        testing.Case(
            Discriminator,
            "sngan_discriminator",
            {"width": 4, "attention": [4], "conditional": True},
            num_classes=3,
            schedule=ONE_STEP,
            inputs=lambda n: (torch.randn(n, 1, 8, 8), torch.arange(n) % 3),
        ),
    ]
    result += [
        testing.Case(Denoiser, "gan_mlp_generator", {"width": 4}, sample_shape=(2,), schedule=ONE_STEP),
        testing.Case(
            Discriminator,
            "gan_mlp_discriminator",
            {"width": 4},
            sample_shape=(2,),
            schedule=ONE_STEP,
            inputs=lambda n: (torch.randn(n, 2),),
        ),
        testing.Case(
            Augmentation,
            "diffusion",
            {"least": 20},
            schedule=ONE_STEP,
            inputs=lambda n: (torch.randn(n, 1, 8, 8), torch.arange(n)),
            declares=dict.fromkeys(
                ("check_rows_do_not_leak", "check_eval_draws_nothing", "check_folder_round_trip"), NOISE
            ),
        ),
    ]
    # The losses themselves are means over rows, as a discriminator shows that keeps no statistics.
    plain = {
        "objective": OPTIONS,
        "family": "sngan",
        "generator": "",
        "discriminator": "spectral_norm = false",
    }
    attentive = "conditional = true\nattention = [4]"
    sagan = plain | {"generator": "conditional = true\nspectral_norm = true", "discriminator": attentive}
    diffused = plain | {"objective": DIFFUSION, "discriminator": "spectral_norm = false\ntimed = true"}
    growing = {"objective": 'type = "progressive_gan"\nphase_images = 10', "family": "progressive"}
    growing |= {"generator": "", "discriminator": ""}
    return [
        *result,
        testing.Case(Objective, "gan", recipe=RECIPE.format(**plain)),
        testing.Case(Objective, "gan", recipe=RECIPE.format(**plain | {"objective": R3GAN})),
        testing.Case(Objective, "gan", recipe=RECIPE.format(**diffused)),
        *(
            testing.Case(
                Objective, name, recipe=RECIPE.format(**options), declares={"check_micro_batches": why}
            )
            for name, options, why in (("gan", sagan, STATISTICS), ("progressive_gan", growing, BATCH))
        ),
    ]
