"""Tiny runs of IWDiff: at one draw a sample it is DDPM, and with all it can do it resumes exactly."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from toolkit.cli import main

RECIPE = """
[run]
batch_size = 8
micro_batch_size = 4
log_every = 1
[data]
type = "digits"
[schedule]
type = "linear"
num_train_timesteps = 6
beta_start = 0.01
beta_end = 0.5
[networks.denoiser]
type = "unet"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
dropout = 0.1
add_attention = false
conditional = true
learned_variance = {learned}
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
clip_norm = 1.0
[ema.denoiser]
decay = 0.9
[sampler]
type = "ancestral"
[samples]
num = 0
"""
IMPORTANCE = """
[objective.timesteps]
type = "second_moment"
history = 2
extra = 2
"""


def trained(objective: str, out: str, steps: int, *flags: str, learned: bool = False) -> Path:
    """Train to so many steps, and return the last checkpoint."""
    recipe = Path(f"{out}.toml")
    recipe.write_text(RECIPE.format(learned=str(learned).lower()) + objective)
    sets = ["--set", f"run.out={out}", "--set", f"run.steps={steps}"]
    result = CliRunner().invoke(main, ["train", str(recipe), *sets, *flags])
    assert result.exit_code == 0, result.output
    return Path(out) / "checkpoints" / f"step-{steps:07d}"


def content(checkpoint: Path) -> dict[str, bytes]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("timesteps", ["", IMPORTANCE])
def test_with_one_draw_a_sample_it_trains_the_bits_of_ddpm(timesteps: str) -> None:
    """Of a network that sees labels and has dropout, in micro-batches."""
    ddpm = content(trained('[objective]\ntype = "ddpm"' + timesteps, "ddpm", 6))
    iwdiff = content(trained('[objective]\ntype = "iwdiff"\nk = 1' + timesteps, "iwdiff", 6))
    networks = [name for name in ddpm if "denoiser" in name and name.endswith(".safetensors")]
    assert len(networks) >= 3  # weights, average, optimizer
    assert [name for name in networks if ddpm[name] != iwdiff[name]] == []


def test_with_all_it_can_do_it_resumes_exactly() -> None:
    """Selected draws, learned timesteps with extra draws, and a learned variance, by recipe."""
    objective = '[objective]\ntype = "iwdiff"\nk = 3\nscale = "sum"\nselective = true\n'
    objective += IMPORTANCE + '[objective.loss]\ntype = "hybrid"\n'
    whole = trained(objective, "whole", 6, learned=True)
    trained(objective, "resumed", 3, learned=True)
    resumed = trained(objective, "resumed", 6, "--resume", learned=True)
    assert content(whole) == content(resumed)
    (state,) = whole.glob("objective*.safetensors")
    learned = load_file(state)
    assert learned["timesteps.probabilities"].std() > 0.01  # the history was full
    assert learned["active"] < 2  # the second pass was over selected draws
    logs = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert all(1 <= line["denoiser/active_draws"] <= 3 for line in logs if "denoiser/active_draws" in line)
