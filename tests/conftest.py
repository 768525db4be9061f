"""Small recipes, and runs of them in this process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask the network for anything

TINY_DDPM = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 4
log_every = 2
[data]
type = "digits"
[schedule]
type = "linear"
num_train_timesteps = 20
beta_start = 1e-3
beta_end = 0.3
[objective]
type = "ddpm"
[networks.denoiser]
type = "unet"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
dropout = 0.1
add_attention = false
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
clip_norm = 1.0
[optimizers.denoiser.lr_schedule]
type = "constant"
warmup = 3
[ema.denoiser]
decay = 0.9
[sampler]
type = "ancestral"
variance = "fixed_large"
[samples]
num = 4
"""

TINY_DDGAN = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 4
log_every = 2
[data]
type = "digits"
flip = true
[schedule]
type = "vp_sde"
num_train_timesteps = 4
[objective]
type = "ddgan"
r1_gamma = 0.1
r1_every = 2
[networks.denoiser]
type = "ddgan_light_generator"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
latent_width = 4
mapping_width = 8
mapping_layers = 1
[networks.discriminator]
type = "ddgan_small_discriminator"
channels = 4
time_width = 8
[optimizers.denoiser]
type = "adam"
lr = 1e-3
betas = [0.5, 0.9]
[optimizers.denoiser.lr_schedule]
type = "cosine"
steps = 6
floor = 1e-5
[optimizers.discriminator]
type = "adam"
lr = 1e-3
betas = [0.5, 0.9]
[ema.denoiser]
decay = 0.9
start = "first_step"
[samples]
num = 4
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe, by default tiny DDPM's, and return its path."""

    def write_recipe(text: str = TINY_DDPM, name: str = "tiny.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_recipe


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs of the tiny recipes, `ddpm` and `ddgan`; tests copy what they change."""
    from click.testing import CliRunner

    from toolkit.cli import main

    folder = tmp_path_factory.mktemp("runs")
    for name, text in (("ddpm", TINY_DDPM), ("ddgan", TINY_DDGAN)):
        recipe = folder / f"{name}.toml"
        recipe.write_text(text)
        done = CliRunner().invoke(main, ["train", str(recipe), "--set", f"run.out={folder / name}"])
        assert done.exit_code == 0, done.output
    return folder
