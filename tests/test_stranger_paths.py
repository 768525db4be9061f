"""A path from outside, with sampler, flow map and guidance: no line of the core knows it."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small_runs import finished, metrics

import toolkit
from toolkit import Pipeline, RecipeError
from toolkit.cli import main

pytestmark = pytest.mark.slow  # trains for 800 steps
SOURCE = Path(__file__).parent / "stranger_paths.py"
RECIPE = """
[run]
batch_size = 128
steps = 800
log_every = 100
[data]
type = "digits"
[schedule]
type = "bow"
bend = 1.5
[objective]
type = "shortcuts"
[networks.denoiser]
type = "flow_map"
[optimizers.denoiser]
type = "adam"
lr = 2e-3
[optimizers.denoiser.lr_schedule]
type = "cosine"
steps = 800
[ema.denoiser]
decay = 0.99
[sampler]
type = "midpoint"
num_inference_steps = 10
[guidance]
type = "thresholded"
quantile = 0.995
[samples]
num = 4
"""
FITTING = {  # network calls for 8 steps
    "ancestral": 8, "ddim": 8, "euler": 8, "heun": 15, "dpm_solver": 8, "consistency": 8, "midpoint": 16,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package as pip would install it."""
    site = tmp_path_factory.mktemp("site")
    (site / "toolkit_bow.py").write_text(SOURCE.read_text(encoding="utf-8"), encoding="utf-8")
    info = site / "toolkit_bow-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-bow\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[toolkit]\nbow = toolkit_bow\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        patch.setenv("TOOLKIT_PLUGINS", "bow,points")
        yield
    sys.modules.pop("toolkit_bow", None)


@pytest.fixture(scope="module")
def run(stranger: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the digits by the core and the stranger alone."""
    folder = tmp_path_factory.mktemp("bow")
    (folder / "bow.toml").write_text(RECIPE)
    finished(folder / "bow.toml", f"run.out={folder / 'run'}")
    return folder / "run"


@pytest.fixture
def pipeline(run: Path) -> Pipeline:
    return toolkit.load(run)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_its_path_stays_of_its_class(pipeline: Pipeline) -> None:
    from toolkit_bow import Bow

    assert type(pipeline.schedule) is Bow
    assert pipeline.schedule.bend == 1.5
    assert type(pipeline.with_sampler("euler", num_inference_steps=5).schedule) is Bow


@pytest.mark.parametrize("sampler", FITTING)
def test_every_sampler_that_fits_draws_digits(pipeline: Pipeline, digits: torch.Tensor, sampler: str) -> None:
    """In 8 steps, twice as near to the data as noise is; calls are counted where they happen."""
    chosen = pipeline.with_sampler(sampler, num_inference_steps=8)
    assert chosen.calls == FITTING[sampler]
    images = torch.cat(list(chosen.sample(32, seed=0)))
    assert nearest(images, digits) < 0.5 * nearest(torch.rand(32, 1, 8, 8) * 2 - 1, digits)


def test_the_map_reads_s(pipeline: Pipeline) -> None:
    """Its two steps end nearer to where the slope leads in many than two steps along the slope do."""
    x_t, t = torch.randn(4, 1, 8, 8), torch.full((4,), 0.8)
    asked = [pipeline.denoiser(x_t, t, s=torch.full((4,), s)).x0 for s in (0.8, 0.0)]
    assert not torch.allclose(*asked, atol=1e-2)
    plain = pipeline.with_guidance(quantile=1)

    def drawn(sampler: str, steps: int) -> torch.Tensor:
        chosen = plain.with_sampler(sampler, num_inference_steps=steps)
        return torch.cat(list(chosen.sample(64, seed=0)))

    goal = drawn("heun", 40)
    assert (drawn("ddim", 2) - goal).square().mean() < 0.8 * (drawn("euler", 2) - goal).square().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "diffusers", "scheduler": "DDPMScheduler"}, "chain"),
        (
            {"type": "diffusers", "scheduler": "FlowMatchEulerDiscreteScheduler"},
            "follow chains and rectified flow, not a Bow",
        ),
        ({"type": "ddim", "spacing": "trailing"}, 'spacing must be "uniform" on this path'),
        ({"type": "ddim", "num_inference_steps": [2, 3]}, "must be one number on a continuous path"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    pipeline: Pipeline, options: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        pipeline.with_sampler(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["ddgan", "iwdiff"])
def test_objectives_of_chains_are_refused(run: Path, objective: str) -> None:
    recipe = run.parent / "bow.toml"
    table = {"ddgan": '{type="ddgan", r1_gamma=1}', "iwdiff": '{type="iwdiff"}'}[objective]
    refused = CliRunner().invoke(
        main,
        ["recipe", "check", str(recipe), "--set", f"objective={table}"],
        env={"TOOLKIT_PLUGINS": f"bow,{objective}"},
    )
    assert refused.exit_code == 2
    assert "Chain" in refused.output or "chain" in refused.output


def test_guidance_of_its_own_is_saved_and_can_be_chosen(pipeline: Pipeline, run: Path) -> None:
    said = call("sample", run, "--num", 4, "--set", "guidance.quantile=0.5", "--out", "a.png")
    assert "20 network calls each" in said
    assert type(pipeline.guidance).__name__ == "Thresholded"
    harder = pipeline.with_guidance(quantile=0.5)
    assert harder.identity != pipeline.identity
    refused = CliRunner().invoke(main, ["sample", str(run), "--set", "guidance.quantile=2", "--out", "b.png"])
    assert refused.exit_code == 2 and "'quantile' must be a number" in refused.output


def test_it_is_evaluated_and_loaded_again(pipeline: Pipeline, run: Path) -> None:
    out = run.parent / "scores"
    call("evaluate", run, "--metrics", "sliced_wasserstein", "--num", 64, "--device", "cpu", "--out", out)
    (path,) = out.glob("*.json")
    score = json.loads(path.read_text())
    assert score["sampling"]["sampler"]["type"] == "midpoint"
    assert score["sampling"]["guidance"] == {"type": "thresholded", "quantile": 0.995}
    shutil.copytree(run / "pipeline", "moved")
    again = toolkit.load("moved")
    assert torch.equal(torch.cat(list(again.sample(2, seed=1))), torch.cat(list(pipeline.sample(2, seed=1))))


def test_its_loss_falls(run: Path) -> None:
    losses = [row["denoiser/loss"] for row in metrics(run) if "denoiser/loss" in row]
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture(scope="session")
def digits() -> torch.Tensor:
    from toolkit.sources.digits import Digits

    source = Digits()
    return toolkit.to_float(source.read(torch.arange(len(source)))[0])


def nearest(images: torch.Tensor, digits: torch.Tensor) -> float:
    """The mean distance of images to the nearest of the digits."""
    return float(torch.cdist(images.flatten(1), digits.flatten(1)).min(1).values.mean())
