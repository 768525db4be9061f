"""A sweep: what its flags stand for, and the study that they make."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.commands import RecipeError
from toolkit_study.plan import read_study, study_of
from toolkit_study.sweep import study_file, swept, values_of

RECIPE = "ddpm_25gaussians"


def test_commas_part_values_but_for_those_in_brackets_and_quotes() -> None:
    assert values_of("a.lr=1e-4, 3e-4") == ["a.lr=1e-4", "a.lr=3e-4"]
    assert values_of("a.betas=[0.5,0.9],[0,0.9]") == ["a.betas=[0.5,0.9]", "a.betas=[0,0.9]"]
    assert values_of("a={x = 1, y = 2}") == ["a={x = 1, y = 2}"]
    assert values_of("a='x,y',z") == ["a='x,y'", "a=z"]


def test_several_flags_with_several_values_make_all_pairs() -> None:
    flags = ["optimizers.denoiser.lr=1e-4,1e-3", "run.batch_size=8,16", "run.steps=5"]
    study = study_of(swept(RECIPE, flags, [], [], [0, 1]))
    tried = [
        (run.tables["optimizers"]["denoiser"]["lr"], run.tables["run"]["batch_size"])
        for run in study.runs.values()
    ]
    assert tried == [(1e-4, 8), (1e-4, 16), (1e-3, 8), (1e-3, 16)]
    assert {run.steps for run in study.runs.values()} == {5} and study.seeds == (0, 1) and study.ranked
    assert [row.title for row in study.rows][0] == "lr = 1e-4, batch_size = 8"


def test_the_file_of_a_sweep_says_the_same(tmp_path: Path) -> None:
    layers = swept(
        RECIPE, ["run.batch_size=8,16"], ["modes25"], ["images.num=50", "metrics.modes25.std=0.2"], [0]
    )
    study_file(layers, tmp_path / "study.toml")
    one, other = study_of(layers), read_study(str(tmp_path / "study.toml"))
    assert one.protocol["metrics"]["modes25"]["std"] == 0.2 and one.protocol["images"]["num"] == 50
    assert one.runs == other.runs and one.protocol == other.protocol and one.comparisons == other.comparisons


def test_a_mistake_is_told_with_the_flag() -> None:
    with pytest.raises(RecipeError) as caught:
        study_of(swept(RECIPE, ["optimizers.denoiser.lrr=1e-4,1e-3"], [], [], [0]))
    (line,) = str(caught.value).splitlines()  # once, although it is a mistake in two runs
    assert line.startswith(
        "--set optimizers.denoiser.lrr=1e-4,1e-3: [optimizers.denoiser] 'adam' has no option"
    )
    with pytest.raises(RecipeError, match="no flag has several values"):
        swept(RECIPE, ["run.steps=5"], [], [], [0])


def test_training_with_several_values_is_answered_with_the_sweep() -> None:
    done = CliRunner().invoke(main, ["train", RECIPE, "--set", "optimizers.denoiser.lr=1e-4,1e-3"])
    assert done.exit_code == 2
    assert f"toolkit sweep {RECIPE} --set=optimizers.denoiser.lr=1e-4,1e-3" in done.stderr
    other = CliRunner().invoke(main, ["train", RECIPE, "--set", "optimizers.denoiser.lr=x"])
    assert other.exit_code == 2 and "sweep" not in other.stderr
