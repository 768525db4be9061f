"""`toolkit recipe check`: what would stop a run is found before it starts."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny import TINY_DDGAN, TINY_DDPM

from toolkit import Chain, Denoiser, RecipeError
from toolkit.cli import main
from toolkit.registry import load as plugins

FORGETFUL = '''
import torch
from torch import nn
from toolkit import Denoiser, NoiseSchedule, Prediction, Start, hookimpl

class Forgetful(Denoiser):
    """Remembers how often it was trained in an attribute that is no buffer."""
    def __init__(self, schedule: NoiseSchedule, shout: bool = False) -> None:
        super().__init__()
        self.schedule, self.shout, self.seen = schedule, shout, 0
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x_t, t, *, s=None, label=None, latent=None):
        self.seen += self.training
        noise = self.scale * x_t + 0.1 * self.seen + (float("nan") if self.shout and not self.training else 0)
        return Prediction(self.schedule, x_t, t, noise=noise)

class Nowhere(Start):
    """Draws no numbers."""
    def __init__(self, schedule: NoiseSchedule) -> None:
        self.time = schedule.noisiest

    def draw(self, shape, generators, t, device):
        return torch.full(tuple(shape), float("nan"), device=device)

@hookimpl
def toolkit_components(registry):
    registry.add(Denoiser, "forgetful", Forgetful)
    registry.add(Start, "nowhere", Nowhere)
'''


def check(recipe: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["recipe", "check", str(recipe), *arguments], catch_exceptions=False)


@pytest.fixture
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed plugin with a denoiser that does not keep its state in buffers; a recipe for it."""
    site = tmp_path / "site"
    (site / "toolkit_forgetful-1.0.dist-info").mkdir(parents=True)
    (site / "toolkit_forgetful.py").write_text(FORGETFUL)
    metadata = site / "toolkit_forgetful-1.0.dist-info"
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-forgetful\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[toolkit]\nforgetful = toolkit_forgetful\n")
    monkeypatch.syspath_prepend(site)
    before, rest = TINY_DDPM.split("[networks.denoiser]")
    yield (
        before
        + '[networks.denoiser]\ntype = "forgetful"\n'
        + rest[rest.index("[optimizers") :].replace("[ema.denoiser]\ndecay = 0.9\n", "")
    )
    sys.modules.pop("toolkit_forgetful", None)


@pytest.mark.parametrize(("text", "networks"), [
    (TINY_DDPM, ["denoiser: UNet"]),
    (TINY_DDGAN, ["denoiser: LightGenerator", "discriminator: SmallDiscriminator"]),
], ids=["ddpm", "ddgan"])  # fmt: skip
def test_a_good_recipe_passes_and_says_what_was_tried(
    write: Callable[..., Path], text: str, networks: list[str]
) -> None:
    started = time.perf_counter()
    done = check(write(text))
    assert done.exit_code == 0, done.output
    assert time.perf_counter() - started < 30
    for network in networks:
        assert f"network {network}, " in done.stdout
    assert "one step: " in done.stdout
    assert "saved and loaded the pipeline: it samples the same" in done.stdout


def test_it_leaves_nothing_behind(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, scratch = write(), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert check(recipe).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scratch", recipe.name]
    assert list(scratch.iterdir()) == []


def test_a_denoiser_with_state_outside_its_buffers_is_found_out(
    write: Callable[..., Path], forgetful: str
) -> None:
    done = check(write(forgetful))
    assert done.exit_code == 2
    assert "samples other images: some of its state is no buffer" in done.stderr


def test_samples_that_are_not_finite_are_found_out(write: Callable[..., Path], forgetful: str) -> None:
    done = check(write(forgetful), "--set", "networks.denoiser.shout=true")
    assert done.exit_code == 2
    assert "tiny.toml: samples are not finite" in done.stderr.splitlines()[-1]


def test_the_walk_begins_where_sampling_begins(
    write: Callable[..., Path], forgetful: str, tmp_path: Path
) -> None:
    done = check(write(TINY_DDPM), "--set", "start.type=nowhere")
    assert done.exit_code == 2
    assert "sampling starts from numbers that are not finite" in done.stderr


SOLVER = ("sampler.type=diffusers", "sampler.scheduler=DPMSolverMultistepScheduler")


@pytest.mark.parametrize("command", [["recipe", "check"], ["train"]])
@pytest.mark.parametrize("steps", [
    ("sampler.num_inference_steps=20",),  # all of the chain
    ("sampler.num_inference_steps=10", "samples.num_inference_steps=20"),  # in the grids alone
])  # fmt: skip
def test_steps_that_a_solver_cannot_take_are_refused_before_training(
    write: Callable[..., Path], command: list[str], steps: tuple[str, ...]
) -> None:
    flags = [f"--set={value}" for value in (*SOLVER, *steps)]
    done = CliRunner().invoke(main, [*command, str(write()), *flags], catch_exceptions=False)
    assert done.exit_code == 2
    assert "num_inference_steps = 20" in done.stderr and "1 to 19" in done.stderr
    assert "one step" not in done.stdout and "step 1" not in done.stderr


@pytest.mark.parametrize("solver", ["HeunDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler"])
def test_a_solver_that_cannot_be_started_halfway_is_tried_from_the_top(
    write: Callable[..., Path], solver: str
) -> None:
    values = ("sampler.type=diffusers", f"sampler.scheduler={solver}", "sampler.num_inference_steps=6")
    done = check(write(), *[f"--set={value}" for value in values])
    assert done.exit_code == 0, done.output
    assert "network calls" in done.stdout


UNET = {"down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4}  # fmt: skip


@pytest.mark.parametrize(("table", "shape"), [
    ({"type": "unet", **UNET}, (1, 8, 8)), ({"type": "mbconv_unet", **UNET}, (1, 8, 8)),
    ({"type": "dilated_conv", "width": 32}, (1, 8, 8)), ({"type": "ddpm_mlp"}, (2,)),
])  # fmt: skip
@pytest.mark.parametrize("end", [1.0, 1 - 1e-15])  # what float32 cannot tell from 1 is as bad
def test_the_noise_is_no_prediction_where_there_is_nothing_but_noise(
    table: dict[str, Any], shape: tuple[int, ...], end: float
) -> None:
    registry = plugins.load().registry
    schedule: Chain = Chain([0.1, 0.5, end])
    supplied = {"schedule": schedule, "sample_shape": shape, "num_classes": None}
    with pytest.raises(RecipeError, match="the noise says nothing of x_0"):
        registry.create(Denoiser, table, supplied=supplied, where=str)
    supplied["schedule"] = Chain([0.1, 0.5, 0.999])
    assert registry.create(Denoiser, table, supplied=supplied, where=str)


def test_a_combination_that_a_constructor_refuses_is_one_line_at_its_table(
    write: Callable[..., Path],
) -> None:
    done = check(write(), "--set", "networks.denoiser.block_out_channels=[8, 8, 8, 8, 8]")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1 and "[networks.denoiser]" in done.stderr


def test_another_memory_order_is_no_lost_weight(write: Callable[..., Path]) -> None:
    assert check(write(), "--set", "networks.denoiser.channels_last=true").exit_code == 0


@pytest.mark.parametrize("verb", [("recipe", "check"), ("train",)])
def test_pictures_of_an_absurd_size_are_an_error(
    verb: tuple[str, ...], write: Callable[..., Path], tmp_path: Path
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    flag = f'data={{type="folder", path="{tmp_path}", size=1000000000}}'
    done = CliRunner().invoke(main, [*verb, str(write()), "--set", flag], catch_exceptions=False)
    assert done.exit_code == 2
    assert " more memory than there is" in done.output
