"""A pipeline with a surrogate is one folder that can be moved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from surrogate_models import tiny, together

import toolkit
from toolkit import RecipeError, RunError
from toolkit.cli import main

RECIPE = """
[run]
batch_size = 8
steps = 2
[data]
type = "digits"
[schedule]
type = "linear"
num_train_timesteps = 20
beta_start = 1e-3
beta_end = 0.3
[objective]
type = "denoising"
[networks.denoiser]
type = "unet"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
add_attention = false
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[samples]
num = 4
[start]
type = "surrogate"
t_mid = 5
surrogate = "surrogate"
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pipeline():
    """Started by a model, whose folder is gone."""
    tiny(sampler={"type": "ddim", "num_inference_steps": 4}).save_pretrained("surrogate")
    pipeline = tiny({"type": "surrogate", "t_mid": 5, "surrogate": "surrogate"})
    shutil.rmtree("surrogate")
    return pipeline


def test_a_saved_pipeline_holds_its_surrogate_and_can_be_moved(pipeline, monkeypatch):
    pipeline.save_pretrained("here")
    stated = json.loads(Path("here/pipeline.json").read_text())
    assert stated["start"]["surrogate"] == "start/surrogate"
    assert stated["plugins"].keys() == {"surrogate"}
    Path("far/away").mkdir(parents=True)
    Path("here").rename("far/away/there")
    monkeypatch.chdir("far")
    loaded = toolkit.load("away/there")
    assert torch.equal(together(loaded, 3), together(pipeline, 3))
    assert (loaded.calls, loaded.start.calls) == (5, 4)


def test_surrogates_of_surrogates_are_saved_within_each_other(pipeline):
    pipeline.save_pretrained("second")
    third = tiny({"type": "surrogate", "t_mid": 3, "surrogate": "second"})
    shutil.rmtree("second")
    third.save_pretrained("third")
    assert Path("third/start/surrogate/start/surrogate/weights.safetensors").is_file()
    Path("third").rename("moved")
    loaded = toolkit.load("moved")
    assert torch.equal(together(loaded, 3), together(third, 3))
    assert (loaded.calls, loaded.start.calls) == (3, 5 + 4)


def test_a_loaded_pipeline_can_replace_the_folder_that_it_came_from(pipeline):
    pipeline.save_pretrained("here")
    toolkit.load("here").with_start(t_mid=7).save_pretrained("here")
    assert toolkit.load("here").calls == 7


def test_data_as_a_surrogate_is_saved_as_its_table():
    pipeline = tiny({"type": "surrogate", "t_mid": 5, "data": {"type": "digits", "split": "test"}})
    pipeline.save_pretrained("here")
    assert torch.equal(together(toolkit.load("here"), 3), together(pipeline, 3))
    assert sorted(path.name for path in Path("here").iterdir()) == [
        "README.md", "pipeline.json", "unet", "weights.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize("foreign", ["start/notes.txt", "start/surrogate/notes.txt"])
def test_saving_never_replaces_a_folder_with_other_files_within(pipeline, foreign):
    pipeline.save_pretrained("here")
    Path("here", foreign).write_text("years of work")
    with pytest.raises(RunError, match=r"notes.txt"):
        pipeline.save_pretrained("here")
    assert Path("here", foreign).read_text() == "years of work"


def test_a_surrogate_that_was_lost_is_named(pipeline):
    pipeline.save_pretrained("here")
    shutil.rmtree("here/start")
    with pytest.raises(RecipeError, match=r"pipeline.json: \[start\] surrogate: .*no such folder"):
        toolkit.load("here")


@pytest.mark.slow
def test_a_run_keeps_the_surrogate_that_its_recipe_names(tmp_path):
    tiny().save_pretrained("surrogate")
    Path("recipe.toml").write_text(RECIPE)
    done = CliRunner().invoke(main, ["train", "recipe.toml", "--set", "run.out=run"])
    assert done.exit_code == 0, done.output
    assert len(list(Path("run/samples").iterdir())) == 1
    expected = together(toolkit.load("run"), 2)
    shutil.rmtree("surrogate")
    shutil.move("run/pipeline", "model")
    model = toolkit.load("model")
    assert torch.equal(together(model, 2), expected) and model.calls == 5


def test_a_recipe_that_names_no_folder_is_answered_with_its_line():
    Path("recipe.toml").write_text(RECIPE)
    done = CliRunner().invoke(main, ["train", "recipe.toml", "--set", "run.out=run"])
    assert done.exit_code == 2
    line = RECIPE.splitlines().index("[start]") + 1
    assert f"recipe.toml:{line}: [start] surrogate: {Path.cwd()}/surrogate: no such folder" in done.stderr
