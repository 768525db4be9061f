"""A run with the hybrid loss: it trains, samples and is scored."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import toolkit
from toolkit.cli import main

TINY = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 4
log_every = 1
[data]
type = "digits"
[schedule]
type = "cosine_betas"
num_train_timesteps = 10
[objective]
type = "denoising"
[objective.loss]
type = "hybrid"
[networks.denoiser]
type = "unet"
learned_variance = true
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
resnet_time_scale_shift = "scale_shift"
dropout = 0.1
add_attention = false
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
[ema.denoiser]
decay = 0.9
[sampler]
type = "ancestral"
clip = true
[samples]
num = 0
"""


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run of 4 steps, `run`."""
    folder = tmp_path_factory.mktemp("hybrid")
    (folder / "tiny.toml").write_text(TINY)
    invoke("train", str(folder / "tiny.toml"), "--set", f"run.out={folder / 'run'}")
    return folder


@pytest.mark.slow
def test_the_variance_learns_and_a_saved_model_keeps_it(folder: Path) -> None:
    model = toolkit.load(folder / "run")
    prediction = model.denoiser(torch.randn(2, 1, 8, 8), torch.tensor([3, 9]))
    assert prediction.variance_fraction.shape == (2, 1, 8, 8)
    few = model(2, torch.Generator().manual_seed(0), 4, "pt").images
    assert few.shape == (2, 1, 8, 8) and bool(few.isfinite().all())


def test_a_run_is_scored_by_its_likelihood(folder: Path) -> None:
    out = folder / "scores"
    stated = ("--set", "metrics.nll.images=3", "--out", str(out))
    assert "bits_per_dim" in invoke("evaluate", str(folder / "run"), "--metrics", "nll", *stated).output
    (file,) = out.glob("nll-*.json")
    score = json.loads(file.read_text())
    assert len(score["curves"]["bits_per_dim"]) == 10 and score["values"]["bits_per_dim"] > 0


def test_a_network_without_variance_is_refused_in_one_line(folder: Path) -> None:
    stated = ("--set", f"run.out={folder / 'none'}", "--set", "networks.denoiser.learned_variance=false")
    result = CliRunner().invoke(main, ["train", str(folder / "tiny.toml"), *stated])
    assert result.exit_code == 2
    assert "set networks.denoiser.learned_variance = true" in result.output.replace("\n", " ")
