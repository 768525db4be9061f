"""[encoder]: a denoiser trained on the latents of a frozen autoencoder, diffusers' or of an earlier run."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from tiny import TINY_DDPM

import toolkit
from toolkit import Batches, Objective, RecipeError, TrainedEncoder, testing
from toolkit.cli import main
from toolkit.data.batches import DataOptions
from toolkit.errors import CheckpointError
from toolkit.files import digest
from toolkit.hf.autoencoder import DiffusersAutoencoder

pytestmark = pytest.mark.slow  # runs, by the dozen

TRAINED = '[encoder]\nfrom_run = "coder"\n'
CODER = """
[run]
batch_size = 8
steps = 2
[data]
type = "digits"
[objective]
type = "autoencoder"
[networks.autoencoder]
type = "autoencoder_kl"
block_out_channels = [8, 8]
latent_channels = 2
norm_num_groups = 4
[optimizers.autoencoder]
type = "adam"
lr = 1e-3
"""
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


@pytest.fixture(scope="module")
def trained_coder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(CODER, "coder")
    return folder


@pytest.fixture
def coder(trained_coder: Path, elsewhere: None) -> Path:
    """A run that trained an autoencoder, which makes 2x4x4 of an 8x8 picture; tests may change it."""
    shutil.copytree(trained_coder, ".", dirs_exist_ok=True)
    return Path("coder")


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def train(text: str, out: str, *args: str) -> str:
    """Train into the folder `out`; what was said."""
    Path(f"{out}.toml").write_text(text)
    done = run("train", f"{out}.toml", "--set", f"run.out={out}", *args)
    assert done.exit_code == 0, done.output
    return done.output


def refused(text: str, *args: str) -> str:
    """Check a recipe that is wrong; what was said."""
    Path("wrong.toml").write_text(text)
    checked = run("recipe", "check", "wrong.toml", *args)
    assert checked.exit_code == 2, checked.output
    return checked.output


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


def test_an_autoencoder_is_its_file_and_nothing_beside_it(vae: Path) -> None:
    """diffusers would draw a weight that is missing at random, and fetch what quantizes the others."""
    config, file = vae / "config.json", vae / "diffusion_pytorch_model.safetensors"
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    before = DiffusersAutoencoder(vae).state_dict()
    config.write_text(json.dumps(json.loads(config.read_text()) | quantized))
    assert digest(DiffusersAutoencoder(vae).state_dict()) == digest(before)
    state = load_file(file)
    missing = min(state)
    del state[missing]
    save_file(state, file)
    with pytest.raises(CheckpointError, match=f"it lacks '{missing}'"):
        DiffusersAutoencoder(vae)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "is of a UNet2DModel, and not of AutoencoderKL or AutoencoderTiny"),
        ({"in_channels": 3}, "is of another architecture: 'encoder.conv_in.weight' has shape (8, 1, 3, 3)"),
        ({"norm_num_groups": 5}, "cannot be read"),
        ({"latent_channels": "many"}, "cannot be read"),
        ({"scaling_factor": -1}, "scaling_factor must be a number above 0"),
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


def test_the_encoder_of_a_run_is_named_in_one_line_and_moves_with_the_pipeline(
    coder: Path, tmp_path: Path
) -> None:
    train(TINY_DDPM + TRAINED, "latent")
    pipeline = toolkit.load("latent")
    assert (pipeline.sample_shape, pipeline.image_shape) == ((2, 4, 4), (1, 8, 8))
    encoder = TrainedEncoder(coder).eval()
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        assert torch.equal(pipeline.encode(images), encoder.encode(images))
    before = torch.cat(list(pipeline.sample(3, seed=1)))
    assert before.shape == (3, 1, 8, 8)

    shutil.move("latent/pipeline", "moved")
    shutil.rmtree("latent")
    shutil.rmtree(coder)
    again = toolkit.load("moved")
    assert again.identity == pipeline.identity
    assert torch.equal(torch.cat(list(again.sample(3, seed=1))), before)
    again.save_pretrained("second")
    assert torch.equal(torch.cat(list(toolkit.load("second").sample(3, seed=1))), before)


@pytest.mark.parametrize("flip", [False, True])
def test_cached_latents_are_those_of_the_images_however_the_sequence_is_cut(coder: Path, flip: bool) -> None:
    encoder = TrainedEncoder(coder).eval().requires_grad_(False)
    source, options = toolkit.read_data("coder.toml"), DataOptions(flip=flip)
    plain, cached = (
        Batches(source, options, seed=3, device=torch.device("cpu"), encode=encoder.encode, cache=cache)
        for cache in (False, True)
    )
    whole, expected = cached.get(1790, 16), plain.get(1790, 16)  # over the end of an epoch
    torch.testing.assert_close(whole.images, expected.images, atol=1e-5, rtol=1e-4)
    assert whole.labels is not None and expected.labels is not None
    assert torch.equal(whole.labels, expected.labels)
    parts = [cached.get(1790 + start, 2).images for start in range(0, 16, 2)]
    assert torch.equal(torch.cat(parts), whole.images)
    whole.images.zero_()  # a turn may
    assert torch.equal(cached.get(1790, 16).images, torch.cat(parts))


def test_a_run_with_cached_latents_resumes_exactly(coder: Path) -> None:
    text = TINY_DDPM.replace('type = "digits"', 'type = "digits"\nflip = true') + TRAINED + "cache = true\n"
    train(text, "whole")
    train(text, "halves", "--set", "run.steps=2")
    train(text, "halves", "--resume")
    whole, halves = toolkit.load("whole"), toolkit.load("halves")
    assert halves.saved.steps == 4
    assert whole.identity == halves.identity


def test_a_run_is_not_resumed_on_other_latents(coder: Path) -> None:
    """The denoiser would go on from latents that it has never seen."""
    train(TINY_DDPM + TRAINED, "latent", "--set", "run.steps=2")
    train(CODER, "coder", "--overwrite", "--set", "run.seed=1")
    resumed = run("train", "latent.toml", "--set", "run.out=latent", "--resume")
    assert resumed.exit_code == 2
    assert "made with encoder = " in resumed.output


def test_a_cache_larger_than_what_is_allowed_is_refused(coder: Path) -> None:
    said = refused(TINY_DDPM + TRAINED + "cache = true\n", "--set", "data.in_memory_mb=0")
    assert "[encoder] cache = true keeps" in said and "raise it, or leave cache out" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[data]", "[data]\nsize = 9\nfit = 'pad'"), "which 9x9 cannot be: pad the data"),
        (('type = "digits"', 'type = "gaussians25"'), "encodes images of 1 channels, not data of shape (2,)"),
        (('"coder"', '"codr"'), "wrong.toml:39: [encoder]"),
        (('"coder"', '"codr"'), "codr: no such folder"),
        (('"coder"', '"pixels"'), "pixels: its network is a UNet, not an autoencoder"),
        (('"coder"', '"coder"\ntype = "diffusers_autoencoder"'), "has no option 'from_run'"),
        (('"coder"', '"coder"\ncahce = true'), "Did you mean 'cache'?"),
        (("[sampler]", "[sampler]\nclip = true"), "clip = true clips to the range of pictures"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused_by_name(
    coder: Path, change: tuple[str, str], message: str
) -> None:
    train(TINY_DDPM, "pixels", "--set", "run.steps=1", "--set", "samples.num=0")
    assert message in refused((TINY_DDPM + TRAINED).replace(*change))


def test_a_network_is_taken_over_only_with_its_own_latents(coder: Path) -> None:
    """Of images, or of another autoencoder's latents of the same shape, it would denoise nonsense."""
    quick = ("--set", "run.steps=1", "--set", "samples.num=0")
    train(TINY_DDPM + TRAINED, "latent", *quick)
    table = TINY_DDPM[TINY_DDPM.index("[networks.denoiser]") : TINY_DDPM.index("[optimizers.denoiser]")]
    taken = TINY_DDPM.replace(table, '[networks.denoiser]\nfrom_run = "latent"\n')
    train(taken + TRAINED, "onwards", *quick)
    pixels = taken.replace("[data]", "[data]\nsize = 4")
    assert "was trained on samples of shape (2, 4, 4)" in refused(pixels)
    train(CODER, "other", "--set", "run.seed=1")
    said = refused(taken + TRAINED.replace('"coder"', '"other"'))
    assert "was trained on latents of another [encoder]" in said

    train(TINY_DDPM + TRAINED.replace('"coder"', '"other"'), "stranger", *quick)
    guided = toolkit.load("latent").with_guidance("autoguidance", weak="onwards", scale=2.0)
    assert guided.calls == 2 * toolkit.load("latent").calls
    with pytest.raises(RecipeError, match="weak: its .encoder. is another than this model's"):
        toolkit.load("latent").with_guidance("autoguidance", weak="stranger", scale=2.0)


def test_a_network_of_images_is_not_taken_for_latents_of_the_same_shape(coder: Path) -> None:
    train(TINY_DDPM.replace("[data]", "[data]\nsize = 4"), "pixels", "--set", "run.steps=1")
    table = TINY_DDPM[TINY_DDPM.index("[networks.denoiser]") : TINY_DDPM.index("[optimizers.denoiser]")]
    taken = TINY_DDPM.replace(table, '[networks.denoiser]\nfrom_run = "pixels"\n')
    train(CODER.replace("latent_channels = 2", "latent_channels = 1"), "one")
    said = refused(taken + TRAINED.replace('"coder"', '"one"'))
    assert "pixels was trained on images, and these are latents of an [encoder]" in said
