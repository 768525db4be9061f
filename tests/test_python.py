"""Training, loading and evaluating from Python, as a notebook does."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import TINY_DDPM

import toolkit

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> toolkit.Run:
    folder = tmp_path_factory.mktemp("python")
    (folder / "tiny.toml").write_text(TINY_DDPM)
    return toolkit.train(
        folder / "tiny.toml", {"run.steps": 2, "run.log_every": 1, "run.out": folder / "run"}
    )


def test_a_run_has_its_pipeline_and_its_metrics(run: toolkit.Run) -> None:
    assert run.step == 2
    assert [record["step"] for record in run.metrics() if "denoiser/loss" in record] == [1, 2]
    noise = torch.zeros(2, 1, 8, 8)
    by_run, by_path = (pipeline(2, torch.Generator().manual_seed(0), output_type="pt", noise=noise).images
                       for pipeline in (run.pipeline(), toolkit.load(run.folder)))  # fmt: skip
    assert torch.equal(by_run, by_path)


def test_steps_are_timed_together_where_one_precision_computes_them(write: Write) -> None:
    """On a CPU "auto" is float32."""
    recipe = write(TINY_DDPM)
    recipes = {
        given: toolkit.read_recipe(recipe, [f"run.precision={given}"]) for given in ("auto", "float32")
    }
    took = toolkit.step_seconds(recipes, turns=2)
    assert took.keys() == recipes.keys() and min(took.values()) > 0
    recipes["bf16"] = toolkit.read_recipe(recipe, ["run.precision=bf16"])
    with pytest.raises(toolkit.RunError, match="bf16 and float32 cannot be timed together"):
        toolkit.step_seconds(recipes)


def test_it_trains_twice_in_one_process_to_the_same_weights(run: toolkit.Run, write: Write) -> None:
    again = toolkit.train(write(TINY_DDPM), {"run.steps": 2, "run.out": "again"})
    mine, others = (one.pipeline().denoiser.state_dict() for one in (run, again))
    assert all(torch.equal(mine[name], others[name]) for name in mine)


def test_it_goes_on_or_replaces_only_when_told(write: Write) -> None:
    recipe = write(TINY_DDPM)
    assert toolkit.train(recipe, {"run.steps": 1}).step == 1
    with pytest.raises(toolkit.RunError, match="tiny"):
        toolkit.train(recipe, {"run.steps": 2})
    assert toolkit.train(recipe, {"run.steps": 2}, resume=True).step == 2
    assert toolkit.train(recipe, {"run.steps": 1}, overwrite=True).step == 1
    with pytest.raises(toolkit.RunError, match="choose one"):
        toolkit.train(recipe, resume=True, overwrite=True)


def test_scores_are_those_of_the_command_and_kept_with_the_run(run: toolkit.Run) -> None:
    """The values are typed, and a text may hold what TOML would read otherwise."""
    values = toolkit.evaluate(run, ["nll"], {"metrics.nll.images": 2, "metrics.nll.batch_size": 2})
    (kept,) = (run.folder / "scores").glob("nll*.json")
    assert str(values["bits_per_dim"])[:8] in kept.read_text()


@pytest.mark.parametrize(("values", "message"), [
    ({"run.stepz": 1}, "Did you mean 'steps'"),
    ({"run.steps": "many"}, 'not "many"'),
    ({"run.steps": None, "data.type": "dijits"}, "Did you mean 'digits'"),
])  # fmt: skip
def test_a_mistake_is_an_error_before_training(write: Write, values: dict[str, object], message: str) -> None:
    with pytest.raises(toolkit.RecipeError) as error:
        toolkit.train(write(TINY_DDPM), values)
    assert message in str(error.value) and not Path("runs").exists()


def test_what_is_no_run_must_state_its_data_and_where_scores_go(run: toolkit.Run) -> None:
    for subject in (run.pipeline(), run.folder / "checkpoints"):
        with pytest.raises(toolkit.RunError, match="state data, a recipe, and out"):
            toolkit.evaluate(subject, ["nll"])
    with pytest.raises(toolkit.RunError, match="a list of names"):
        toolkit.evaluate(run, "nll")


@pytest.mark.parametrize("device", ["meta", "nowhere", "cuda:7"])
def test_a_device_that_is_not_there_is_refused(run: toolkit.Run, device: str) -> None:
    with pytest.raises(toolkit.ToolkitError, match=f"device '{device}'"):
        run.pipeline(device=device)
    assert toolkit.load(run, device="auto").device.type == "cpu"


NOTEBOOK = """
import builtins, sys
class ZMQInteractiveShell:
    config = {}
builtins.get_ipython = ZMQInteractiveShell  # by which a notebook is known
import toolkit
run = toolkit.train("tiny.toml", {"run.steps": 3})
toolkit.load(run)(2)
"""


@pytest.mark.slow
def test_a_notebook_shows_bars_of_training_and_sampling(tmp_path: Path) -> None:
    """In a process of its own, which looks like a notebook's: bars that end where the work does."""
    (tmp_path / "tiny.toml").write_text(TINY_DDPM)
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    bars = [line.split("[")[0] for line in re.split("[\\r\\n]+", done.stderr) if "|" in line]
    ends = {"training": "3/3", "measuring": "360/360", "sampling": "40/40"}
    for what, end in ends.items():
        assert any(bar.startswith(what) and end in bar for bar in bars), (what, bars)
