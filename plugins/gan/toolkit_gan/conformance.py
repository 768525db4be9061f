"""The smallest settings for `toolkit plugin test gan`."""

import torch

from toolkit import Denoiser, Objective, testing
from toolkit_gan.interfaces import Discriminator

ONE_STEP = {"type": "betas", "betas": [1.0]}
STATISTICS = "batch normalisation sees one micro-batch, and spectral norm iterates once a forward pass"
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "betas"
betas = [1.0]
[objective]
type = "gan"
loss = "hinge"
n_dis = 2
fakes_per_real = 2
gp_weight = 1.0
r1_gamma = 0.1
penalty_every = 3
dequantise = 0.01
instance_noise = 0.1
[networks.generator]
type = "{family}_generator"
latent_width = 4
width = 4
[networks.discriminator]
type = "{family}_discriminator"
width = 4
{norm}
[optimizers.generator]
type = "adam"
lr = 1e-3
[optimizers.discriminator]
type = "adam"
lr = 1e-3
[ema.generator]
decay = 0.5
"""


def cases() -> list[testing.Case]:
    result = []
    for family in ("dcgan", "sngan"):
        result += [
            testing.Case(Denoiser, f"{family}_generator", {"latent_width": 4, "width": 4}, schedule=ONE_STEP),
            testing.Case(
                Discriminator,
                f"{family}_discriminator",
                {"width": 4},
                schedule=ONE_STEP,
                inputs=lambda n: (torch.randn(n, 1, 8, 8),),
            ),
        ]
    # The losses themselves are means over rows, as a discriminator shows that keeps no statistics.
    plain, declares = "spectral_norm = false", {"check_micro_batches": STATISTICS}
    return [
        *result,
        testing.Case(Objective, "gan", recipe=RECIPE.format(family="sngan", norm=plain)),
        testing.Case(Objective, "gan", recipe=RECIPE.format(family="sngan", norm=""), declares=declares),
    ]
