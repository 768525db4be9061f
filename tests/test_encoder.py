"""[encoder]: a denoiser trained on the latents of a frozen autoencoder that diffusers saved."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from click.testing import CliRunner, Result
from tiny import TINY_DDPM

import toolkit
from toolkit import Objective, testing
from toolkit.cli import main
from toolkit.hf.autoencoder import DiffusersAutoencoder

ENCODER = '[encoder]\ntype = "diffusers_autoencoder"\npath = "vae"\n'


@pytest.fixture
def vae(elsewhere: None) -> Path:
    """A tiny AutoencoderKL with weights as drawn, which makes 2x4x4 of an 8x8 picture."""
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=2, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4, scaling_factor=0.5,
    )  # fmt: skip
    model.save_pretrained("vae")
    return Path("vae")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_latents_are_the_mean_of_what_the_autoencoder_gives_times_its_scale(vae: Path) -> None:
    images = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
    theirs = diffusers.AutoencoderKL.from_pretrained(vae)
    encoder, doubled = DiffusersAutoencoder(vae), DiffusersAutoencoder(vae, scale=1.0)
    with torch.no_grad():
        mean = theirs.encode(images).latent_dist.mean
        assert encoder.latent_shape((1, 8, 8)) == (2, 4, 4)
        assert torch.equal(encoder.encode(images), 0.5 * mean)
        assert torch.equal(doubled.encode(images), mean)
        assert torch.equal(encoder.decode(0.5 * mean), theirs.decode(mean).sample)


@pytest.mark.parametrize("saving", [
    {"variant": "fp16"}, {"max_shard_size": "5KB"}, {"max_shard_size": "5KB", "variant": "fp16"},
])  # fmt: skip
def test_weights_in_shards_and_variants_are_read(vae: Path, saving: dict[str, str]) -> None:
    diffusers.AutoencoderKL.from_pretrained(vae).save_pretrained("other", **saving)
    assert not Path("other/diffusion_pytorch_model.safetensors").exists()
    images = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)
    with torch.no_grad():
        one, other = (DiffusersAutoencoder(path).encode(images) for path in (vae, Path("other")))
    assert torch.equal(one, other)


def test_a_latent_model_trains_and_its_folder_moves_without_the_autoencoder_it_came_from(
    vae: Path, tmp_path: Path
) -> None:
    """Samples are pictures, decoded by the autoencoder that was saved along; the same ones after the move."""
    Path("latent.toml").write_text(TINY_DDPM + ENCODER)
    checked = run("recipe", "check", "latent.toml")
    assert checked.exit_code == 0, checked.output
    trained = run("train", "latent.toml", "--set", "run.out=run")
    assert trained.exit_code == 0, trained.output
    pipeline = toolkit.load("run")
    assert pipeline.sample_shape == (2, 4, 4)
    assert pipeline.image_shape == (1, 8, 8)
    before = torch.cat(list(pipeline.sample(3, seed=1)))
    assert before.shape == (3, 1, 8, 8)

    shutil.move("run/pipeline", "moved")
    shutil.rmtree("run")
    shutil.rmtree(vae)
    saved = json.loads(Path("moved/pipeline.json").read_text())
    assert saved["encoder"]["path"] == "encoder/path"
    again = toolkit.load("moved")
    assert again.identity == pipeline.identity
    assert torch.equal(torch.cat(list(again.sample(3, seed=1))), before)
    assert not Path("moved/model_index.json").exists()  # diffusers would draw the latents


def test_other_weights_of_the_autoencoder_are_another_model(vae: Path) -> None:
    """Else scores of one would be shown as the other's."""
    Path("latent.toml").write_text(TINY_DDPM + ENCODER)
    assert run("train", "latent.toml", "--set", "run.out=run").exit_code == 0
    pipeline = toolkit.load("run")
    before = pipeline.identity
    assert pipeline.encoder is not None
    next(pipeline.encoder.parameters()).data.add_(1.0)
    assert pipeline.identity != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "is of a UNet2DModel, and not of AutoencoderKL or AutoencoderTiny"),
        ({"in_channels": 3}, "cannot be read"),
        ({"norm_num_groups": 5}, "cannot be read"),
        ({"latent_channels": "many"}, "cannot be read"),
        (None, "has no diffusion_pytorch_model.safetensors; pickled weights (.bin) are not opened"),
    ],
)
def test_a_damaged_autoencoder_is_refused_where_the_recipe_names_it(
    vae: Path, change: dict[str, object] | None, message: str
) -> None:
    Path("latent.toml").write_text(TINY_DDPM + ENCODER)
    config = vae / "config.json"
    if change is None:
        (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.bin")
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
    refused = run("recipe", "check", "latent.toml")
    assert refused.exit_code == 2
    assert "latent.toml:39: [encoder]" in refused.output
    assert message in refused.output


def test_data_of_other_channels_is_refused(vae: Path) -> None:
    text = TINY_DDPM.replace('type = "digits"', 'type = "gaussians25"')
    Path("latent.toml").write_text(text + ENCODER)
    refused = run("recipe", "check", "latent.toml")
    assert refused.exit_code == 2
    assert "encodes images of 1 channels, not data of shape (2,)" in refused.output


def test_the_kit_checks_an_objective_on_latents(vae: Path) -> None:
    """It opens the same session as a run does: networks of latents are given latents."""
    case = testing.Case(Objective, "denoising", recipe=TINY_DDPM + ENCODER)
    outcomes = {outcome.check: outcome for outcome in testing.run([case])}
    assert outcomes["check_finite"].status == "passed", outcomes["check_finite"]
    assert outcomes["check_micro_batches"].status == "passed", outcomes["check_micro_batches"]
