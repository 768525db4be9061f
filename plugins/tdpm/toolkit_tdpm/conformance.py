"""The smallest settings for `toolkit plugin test tdpm`."""

from pathlib import Path

from toolkit import Chain, Denoiser, Objective, Saved, SavedNetwork, Start, load_plugins, testing
from toolkit_tdpm.start import Truncated

CHAIN = {"type": "linear", "num_train_timesteps": 200, "beta_start": 5e-4, "beta_end": 0.1}
WIDTH = {"width": 8, "layers": 1}
RECIPE = """
[data]
type = "gaussians25"
length = 64
[schedule]
type = "linear"
num_train_timesteps = 200
beta_start = 5e-4
beta_end = 0.1
[objective]
type = "tdpm"
t_trunc = 50
n_dis = 2
r1_gamma = 0.1
[networks.denoiser]
type = "ddpm_mlp"
width = 8
[networks.generator]
type = "gan_mlp_generator"
width = 8
[networks.discriminator]
type = "gan_mlp_discriminator"
width = 8
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[optimizers.generator]
type = "adam"
lr = 1e-3
[optimizers.discriminator]
type = "adam"
lr = 1e-3
[ema.denoiser]
decay = 0.9
[ema.generator]
decay = 0.9
[start]
type = "tdpm"
t_trunc = 50
"""


def _saved_generator(folder: Path) -> dict[str, object]:
    """A generator as drawn, in a folder as a saved pipeline has it."""
    registry, chain = load_plugins().registry, Chain([0.1, 0.1])
    table = registry.resolve(Denoiser, {"type": "gan_mlp_generator", **WIDTH})
    saved = Saved(network=table, sample_shape=(2,), num_classes=None)
    network = SavedNetwork(saved.build("network", registry, saved.supplied(chain), folder), saved)
    start = Truncated(chain, 1).with_networks({"generator": network})
    start.pipelines()["generator"].save_pretrained(folder / "generator")
    return {"t_trunc": 50, "generator": str(folder / "generator")}


def cases() -> list[testing.Case]:
    return [
        testing.Case(Start, "tdpm", _saved_generator, sample_shape=(2,), schedule=CHAIN),
        testing.Case(Objective, "tdpm", recipe=RECIPE),
        testing.Case(Objective, "tdpm", recipe=RECIPE.replace("r1_gamma = 0.1", 'adversarial = "hinge"')),
    ]
