"""The smallest settings for `toolkit plugin test distill`."""

import torch

from toolkit import Objective, Sampler, testing
from toolkit_distill.discriminator import DiffusedDiscriminator

CHAIN = {"type": "linear", "num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}
MAPS = "it is for students, which reach x_0 in one call"
NETWORK = """
[networks.{role}]
type = "ddpm_mlp"
width = 8
"""
OPTIMIZER = """
[optimizers.{role}]
type = "adam"
lr = 1e-3
"""
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "linear"
num_train_timesteps = 200
beta_start = 5e-4
beta_end = 0.1
[objective]
type = "dmd"
times = [150, 70]
fake_updates = 1
adversarial_weight = 0.1
[sampler]
type = "few_step"
times = [150, 70]
[networks.discriminator]
type = "dmd_discriminator"
width = 4
[ema.student]
decay = 0.5
"""


def cases() -> list[testing.Case]:
    networks = "".join(NETWORK.format(role=role) for role in ("student", "teacher", "fake_score"))
    trained = "".join(OPTIMIZER.format(role=role) for role in ("student", "fake_score", "discriminator"))
    return [
        testing.Case(
            DiffusedDiscriminator,
            "dmd_discriminator",
            {"width": 4},
            inputs=lambda n: (torch.randn(n, 1, 8, 8), torch.arange(n) % 200),
        ),
        *(
            testing.Case(
                Sampler,
                "few_step",
                {"times": times},
                schedule=schedule,
                declares={"check_gaussian_is_recovered": MAPS},
            )
            for times, schedule in (([150, 70], CHAIN), ([40.0], {"type": "edm"}))
        ),
        testing.Case(Objective, "dmd", recipe=RECIPE + networks + trained),
    ]
