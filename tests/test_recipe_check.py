"""`toolkit recipe check`: what would stop a run is found before it starts."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import TINY_DDGAN, TINY_DDPM

from toolkit.cli import main

FORGETFUL = '''
import torch
from torch import nn
from toolkit import Denoiser, NoiseSchedule, Prediction, hookimpl

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

@hookimpl
def toolkit_components(registry):
    registry.add(Denoiser, "forgetful", Forgetful)
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
    assert "not finite" in done.stderr


def test_a_combination_that_a_constructor_refuses_is_one_line_at_its_table(
    write: Callable[..., Path],
) -> None:
    done = check(write(), "--set", "networks.denoiser.block_out_channels=[8, 8, 8, 8, 8]")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1 and "[networks.denoiser]" in done.stderr


def test_another_memory_order_is_no_lost_weight(write: Callable[..., Path]) -> None:
    assert check(write(), "--set", "networks.denoiser.channels_last=true").exit_code == 0
