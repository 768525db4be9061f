"""The smallest settings for `toolkit plugin test autoencoder`."""

from pathlib import Path

import torch

from toolkit import Denoiser, Encoder, Objective, Saved, SavedNetwork, load_plugins, testing
from toolkit_autoencoder.discriminator import Discriminator

ONE_STEP = {"type": "betas", "betas": [1.0]}
SMALL = {"block_out_channels": [4, 8], "latent_channels": 2, "norm_num_groups": 4}
BALANCE = "the adversary's weight is a ratio of two gradients of one micro-batch, as published"
RECIPE = """
[data]
type = "digits"
split = "test"
[objective]
type = "autoencoder"
[networks.autoencoder]
type = "autoencoder_kl"
block_out_channels = [4, 8]
latent_channels = 2
norm_num_groups = 4
[optimizers.autoencoder]
type = "adam"
lr = 1e-3
[ema.autoencoder]
decay = 0.5
"""
ADVERSARY = """
[networks.discriminator]
type = "patch_discriminator"
width = 4
layers = 1
[optimizers.discriminator]
type = "adam"
lr = 1e-3
"""


def _untrained(folder: Path) -> dict[str, str]:
    """An autoencoder as drawn, in the folder of a network: the core itself has none to read."""
    registry = load_plugins().registry
    table = registry.resolve(Denoiser, {"type": "autoencoder_kl", **SMALL})
    saved = Saved(network=table, sample_shape=(1, 8, 8), num_classes=None)
    network = saved.build("network", registry, saved.supplied(), folder)
    SavedNetwork(network, saved).save_pretrained(folder / "network")
    return {"from_run": str(folder / "network")}


def cases() -> list[testing.Case]:
    adversarial = RECIPE.replace("[objective]", "[objective]\nadversary_start = {start}") + ADVERSARY
    return [
        testing.Case(Denoiser, "autoencoder_kl", SMALL, schedule=ONE_STEP),
        testing.Case(
            Discriminator,
            "patch_discriminator",
            {"width": 4, "layers": 1},
            inputs=lambda n: (torch.randn(n, 1, 8, 8),),
        ),
        testing.Case(Encoder, "trained", _untrained),
        testing.Case(Objective, "autoencoder", recipe=RECIPE),
        testing.Case(Objective, "autoencoder", recipe=adversarial.format(start=2)),
        testing.Case(
            Objective,
            "autoencoder",
            recipe=adversarial.format(start=0),
            declares={"check_micro_batches": BALANCE},
        ),
    ]
