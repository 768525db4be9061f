"""[guidance] type = "autoguidance": a weaker pipeline to lead away from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import finished
from tiny import TINY_DDPM

import toolkit
from toolkit import Pipeline, RecipeError

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def weaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny recipe with other weights than `runs` has."""
    folder = tmp_path_factory.mktemp("weaker")
    (folder / "tiny.toml").write_text(TINY_DDPM)
    finished(folder / "tiny.toml", f"run.out={folder / 'run'}", "run.seed=1")
    return folder / "run"


@pytest.fixture
def strong(weaker: Path, runs: Path) -> Pipeline:
    """A pipeline of the tiny recipe; ./weak is a run of it with other weights."""
    shutil.copytree(weaker, "weak")
    return toolkit.load(runs / "ddpm")


def samples(pipeline: Pipeline) -> torch.Tensor:
    return torch.cat(list(pipeline.sample(2, seed=3)))


def test_it_leads_away_from_the_weak_model(strong: Pipeline) -> None:
    """At scale 1 the model itself, at 0 the weak one; between them both are asked, two calls a step."""
    weak = toolkit.load("weak")
    assert torch.equal(samples(strong.with_guidance("autoguidance", weak="weak", scale=1)), samples(strong))
    at_zero = strong.with_guidance("autoguidance", weak="weak", scale=0)
    assert samples(at_zero) == pytest.approx(samples(weak), abs=1e-5)
    guided = strong.with_guidance("autoguidance", weak="weak", scale=2)
    assert guided.calls == 2 * strong.calls
    assert not torch.allclose(samples(guided), samples(strong), atol=1e-3)


def test_it_is_saved_with_its_weak_model(strong: Pipeline) -> None:
    guided = strong.with_guidance("autoguidance", weak="weak", scale=2)
    before, identity = samples(guided), guided.identity
    guided.save_pretrained("guided")
    shutil.rmtree("weak")
    assert json.loads(Path("guided/pipeline.json").read_text())["guidance"]["weak"] == "guidance/weak"
    again = toolkit.load("guided")
    assert again.identity == identity != strong.identity
    assert torch.equal(samples(again), before)


def test_other_weights_of_the_weak_model_are_another_pipeline(strong: Pipeline, write: Write) -> None:
    one = strong.with_guidance("autoguidance", weak="weak", scale=2).identity
    finished(write(), "run.out=weak", "run.seed=2", flags=("--overwrite",))
    assert strong.with_guidance("autoguidance", weak="weak", scale=2).identity != one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("schedule.beta_end=0.2",), "was trained on another noise schedule"),
        (("schedule.num_train_timesteps=10",), "was trained on another noise schedule"),
        (("networks.denoiser.conditional=true",), "the weak model wants classes"),
    ],
)
def test_a_weak_model_that_does_not_fit_is_refused(
    write: Write, strong: Pipeline, change: tuple[str, ...], message: str
) -> None:
    finished(write(), "run.out=other", *change)
    with pytest.raises(RecipeError, match=message):
        strong.with_guidance("autoguidance", weak="other", scale=2)


def test_a_folder_without_a_model_is_refused(strong: Pipeline) -> None:
    with pytest.raises(RecipeError, match="weak: .*nowhere"):
        strong.with_guidance("autoguidance", weak="nowhere", scale=2)


def test_a_network_that_draws_is_refused(runs: Path, strong: Pipeline) -> None:
    with pytest.raises(RecipeError, match="draws x_0"):
        toolkit.load(runs / "ddgan").with_guidance("autoguidance", weak=str(runs / "ddgan"), scale=2)
