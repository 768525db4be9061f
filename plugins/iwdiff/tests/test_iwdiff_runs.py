"""Tiny runs of IWDiff: at one draw a sample it is plain denoising; and one with all that it can do."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from toolkit.cli import main

pytestmark = pytest.mark.slow  # runs, by the dozen

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
STRATIFIED = """
[objective.timesteps]
type = "stratified"
"""
IMPORTANCE = """
[objective.timesteps]
type = "second_moment"
history = 2
extra = 2
"""


def trained(objective: str, out: str, steps: int, learned: bool = False) -> Path:
    """Train to so many steps, and return the last checkpoint."""
    recipe = Path(f"{out}.toml")
    recipe.write_text(RECIPE.format(learned=str(learned).lower()) + objective)
    sets = ["--set", f"run.out={out}", "--set", f"run.steps={steps}"]
    result = CliRunner().invoke(main, ["train", str(recipe), *sets])
    assert result.exit_code == 0, result.output
    return Path(out) / "checkpoints" / f"step-{steps:07d}"


def content(checkpoint: Path) -> dict[str, bytes]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("timesteps", ["", STRATIFIED, IMPORTANCE])
def test_with_one_draw_a_sample_it_trains_the_bits_of_plain_denoising(timesteps: str) -> None:
    """Of a network that sees labels and has dropout, in micro-batches."""
    plain = content(trained('[objective]\ntype = "denoising"' + timesteps, "plain", 6))
    iwdiff = content(trained('[objective]\ntype = "iwdiff"\nk = 1' + timesteps, "iwdiff", 6))
    networks = [name for name in plain if "denoiser" in name and name.endswith(".safetensors")]
    assert len(networks) >= 3  # weights, average, optimizer
    assert [name for name in networks if plain[name] != iwdiff[name]] == []


def test_selected_draws_learned_timesteps_and_a_learned_variance_go_together() -> None:
    objective = '[objective]\ntype = "iwdiff"\nk = 3\nscale = "sum"\nselective = true\n'
    objective += IMPORTANCE + '[objective.loss]\ntype = "hybrid"\n'
    checkpoint = trained(objective, "run", 6, learned=True)
    (state,) = checkpoint.glob("objective*.safetensors")
    learned = load_file(state)
    assert learned["timesteps.probabilities"].std() > 0.01  # the history was full
    assert learned["active"] < 2  # the second pass was over selected draws
    logs = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert all(1 <= line["denoiser/active_draws"] <= 3 for line in logs if "denoiser/active_draws" in line)
