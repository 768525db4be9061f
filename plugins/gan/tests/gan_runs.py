"""Tiny runs, also of two processes: python gan_runs.py FOLDER NAME

Each recipe in FOLDER is trained, into FOLDER/NAME and the recipe's name.
"""

import sys
from functools import partial
from pathlib import Path

from click.testing import CliRunner, Result
from forks import in_processes, prepare

from toolkit.cli import main

TINY_SNGAN = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 6
log_every = 1
[data]
type = "digits"
[schedule]
type = "betas"
betas = [1.0]
[networks.generator]
type = "sngan_generator"
latent_width = 4
width = 8
attention = [8]
[networks.discriminator]
type = "sngan_discriminator"
width = 8
attention = [4]
[objective]
type = "gan"
loss = "hinge"
n_dis = 2
fakes_per_real = 2
r1_gamma = 0.1
penalty_every = 3
dequantise = 0.01
instance_noise = 0.1
[optimizers.generator]
type = "adam"
lr = 1e-2
betas = [0.0, 0.9]
[optimizers.generator.lr_schedule]
type = "linear"
steps = 8
[optimizers.discriminator]
type = "adam"
lr = 1e-2
betas = [0.0, 0.9]
[ema.generator]
decay = 0.5
[samples]
num = 4
"""
TINY_DCGAN = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 6
log_every = 1
[data]
type = "digits"
[schedule]
type = "betas"
betas = [1.0]
[networks.generator]
type = "dcgan_generator"
latent_width = 4
width = 8
[networks.discriminator]
type = "dcgan_discriminator"
width = 8
[objective]
type = "gan"
loss = "non_saturating"
n_dis = 2
gp_weight = 1.0
[optimizers.generator]
type = "adam"
lr = 1e-2
[optimizers.discriminator]
type = "adam"
lr = 1e-2
[ema.generator]
decay = 0.5
[samples]
num = 4
"""
TINY_PROGRESSIVE = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 8
log_every = 1
[data]
type = "digits"
[schedule]
type = "betas"
betas = [1.0]
[networks.generator]
type = "progressive_generator"
latent_width = 4
width = 8
[networks.discriminator]
type = "progressive_discriminator"
width = 8
[objective]
type = "progressive_gan"
phase_images = 24
[optimizers.generator]
type = "adam"
lr = 1e-2
betas = [0.5, 0.99]
[optimizers.discriminator]
type = "adam"
lr = 1e-2
betas = [0.5, 0.99]
[ema.generator]
decay = 0.5
[samples]
num = 0
"""
AUGMENT = 'augment = {type = "diffusion", every = 2, images = 100, target = -1.0}\n'
TINY_DIFFUSION = TINY_SNGAN.replace("n_dis = 2\n", f"n_dis = 2\n{AUGMENT}")
TINY = {"sngan": TINY_SNGAN, "dcgan": TINY_DCGAN}


def train(recipe: Path | str, *changes: str, flags: tuple[str, ...] = ()) -> Result:
    """`toolkit train`, with values set."""
    sets = [part for value in changes for part in ("--set", value)]
    return CliRunner().invoke(main, ["train", str(recipe), *sets, *flags])


def all_runs(folder: Path, name: str) -> None:
    for recipe in sorted(folder.glob("*.toml")):
        result = train(recipe, f"run.out={folder / name / recipe.stem}")
        if result.exit_code:
            sys.exit(result.output)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    prepare(*folder.glob("*.toml"))
    in_processes(2, partial(all_runs, folder, sys.argv[2]))
