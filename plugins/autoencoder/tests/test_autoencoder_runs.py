"""Runs of autoencoders: what they save, show and refuse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoder_recipes import AUTOENCODER, ONE_STEP
from click.testing import CliRunner, Result
from PIL import Image

import toolkit
from toolkit import TrainedEncoder
from toolkit.cli import main

SHORT = ("--set", "run.steps=300", "--set", "run.batch_size=32", "--set", "optimizers.autoencoder.lr=1e-2")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def train(text: str, out: str, *args: str) -> None:
    Path(f"{out}.toml").write_text(text)
    done = run("train", f"{out}.toml", "--set", f"run.out={out}", *args)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_short_run_reconstructs_digits_and_scales_their_latents(tmp_path: Path) -> None:
    train(AUTOENCODER, "run", *SHORT)
    encoder = TrainedEncoder(Path("run")).eval()
    images, _ = toolkit.read_data("run.toml").read(torch.arange(200))
    images = toolkit.to_float(images)
    with torch.no_grad():
        latents = encoder.encode(images)
        again = encoder.decode(latents)
    assert float((images - again).abs().mean()) < 0.5 * float((images - images.mean(0)).abs().mean())
    assert float(latents.std()) == pytest.approx(1, rel=0.1)


def test_with_a_chain_of_one_step_it_samples_and_gives_chains_a_start() -> None:
    """A variational autoencoder: its decoder of z ~ N(0, I), in one network call."""
    train(AUTOENCODER + ONE_STEP, "vae")
    pipeline = toolkit.load("vae")
    assert pipeline.calls == 1
    samples = torch.cat(list(pipeline.sample(3, seed=5)))
    rows = []
    for seed in (5, 6, 7):
        generator = torch.Generator().manual_seed(seed)
        torch.randn(1, 8, 8, generator=generator)  # the noise that a chain begins with, unused
        rows.append(torch.randn(2, 4, 4, generator=generator))
    with torch.no_grad():
        by_hand = pipeline.denoiser.reconstruct(torch.stack(rows)).clamp(-1, 1)
    torch.testing.assert_close(samples, by_hand)

    done = run("sample", "vae", "--num", "2", "--start", "surrogate", "--surrogate", "vae", "--t-mid", "0")
    assert done.exit_code == 0, done.output
    assert "0 network calls each, after 1 for its start" in done.output


def test_reconstructions_are_shown_beside_held_out_images() -> None:
    train(AUTOENCODER, "run")
    done = run("reconstruct", "run", "--num", "4", "--out", "pairs.png")
    assert done.exit_code == 0, done.output
    assert "4 images beside their reconstructions, L1 " in done.output and "PSNR" in done.output
    assert np.asarray(Image.open("pairs.png")).shape[0] > 0
    taken = run("reconstruct", "run", "--num", "4", "--out", "pairs.png")
    assert taken.exit_code == 2 and "is already there; give --overwrite" in taken.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none",), "none: has no recipe.toml, whose [data] to take: name one by --data"),
        (("none", "--data", "run.toml"), "none: no such folder"),
        (("run", "--data", "points.toml"), "encodes images of 1 channels, not data of shape (2,)"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused(arguments: tuple[str, ...], message: str) -> None:
    train(AUTOENCODER, "run")
    Path("points.toml").write_text('[data]\ntype = "gaussians25"\n')
    refused = run("reconstruct", *arguments)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output and not Path("pairs.png").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("networks.autoencoder.block_out_channels=[4, 8, 8, 8, 8]", "8x8 cannot be: pad the data"),
        ("networks.autoencoder.block_out_channels=[]", "has no level"),
        ("networks.autoencoder.norm_num_groups=3", "norm_num_groups = 3"),
        ("networks.autoencoder.in_channels=3", "'in_channels' is not an option of 'autoencoder_kl'"),
        ("objective.adversary_start=0", "'discriminator', but there is no [networks.discriminator]"),
    ],
)
def test_options_that_fit_nothing_are_refused_in_one_line(setting: str, message: str) -> None:
    Path("small.toml").write_text(AUTOENCODER)
    refused = run("recipe", "check", "small.toml", "--set", setting)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
