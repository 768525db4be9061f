"""A study's file: what it says is to be done, and what is wrong with it."""

from pathlib import Path

import pytest

from toolkit import read_recipe, step_seconds
from toolkit.commands import RecipeError, write_toml
from toolkit.recipe.packaged import packaged
from toolkit_study.plan import filled, read_study

STUDY = """
[study]
title = "Points"
seeds = [0, 1]

[set]
run.batch_size = 32

[runs.teacher]
recipe = "flow_25gaussians"
seeds = [0]
scored = false

[runs.short]
recipe = "ddpm_25gaussians"
title = "Short"
steps = 100

[runs.long]
recipe = "ddpm_25gaussians"
as_long_as = "short"

[runs.long.samplers]
"" = {}
"DDIM" = {sampler = {type = "ddim"}}

[images]
num = 100

[metrics]
modes25 = {}

[comparisons.long]
baseline = "long/DDIM"

[scale.tiny]
study.most_steps = 5
set.run.batch_size = 8
"""


def written(folder: Path, text: str = STUDY, *changes: tuple[str, str]) -> str:
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "points.toml").write_text(text)
    return str(folder / "points.toml")


def test_a_study_names_its_runs_their_samplers_and_what_is_compared(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    assert [row.key for row in study.rows] == ["short", "long", "long/DDIM"]
    assert [row.title for row in study.rows] == ["Short", "long", "long, DDIM"]
    assert study.runs["short"].tables["run"]["batch_size"] == 32 and study.runs["short"].steps == 100
    assert study.runs["teacher"].seeds == (0,) and study.runs["long"].seeds == (0, 1)
    assert study.protocol["images"]["num"] == 100 and study.protocol["metrics"]["modes25"]["side"] == 5


def test_a_scale_is_merged_over_the_file(tmp_path: Path) -> None:
    study = read_study(written(tmp_path), "tiny")
    assert study.runs["short"].tables["run"]["batch_size"] == 8
    assert study.runs["short"].steps == study.runs["teacher"].steps == 5


def test_flags_are_values_of_all_recipes(tmp_path: Path) -> None:
    study = read_study(written(tmp_path), None, ["run.batch_size=4", "data.length=77"])
    assert {run.tables["run"]["batch_size"] for run in study.runs.values()} == {4}
    assert {run.tables["data"]["length"] for run in study.runs.values()} == {77}


def test_as_long_as_another_takes_the_steps_that_cost_as_much(tmp_path: Path) -> None:
    study = read_study(written(tmp_path))
    assert study.to_time == ["long", "short"]
    assert study.settled({"long": 0.2, "short": 0.5}).runs["long"].steps == 250
    seconds = read_study(written(tmp_path, STUDY, ('as_long_as = "short"', "seconds = 12.5")))
    assert seconds.settled({"long": 0.25}).runs["long"].steps == 50


def test_a_run_whose_steps_are_not_known_yet_has_room_for_schedules_over_them(tmp_path: Path) -> None:
    """Consistency training doubles its levels three times in a run, which one step could not."""
    text = ('recipe = "ddpm_25gaussians"\nas_long_as', 'recipe = "consistency_25gaussians"\nas_long_as')
    study = read_study(written(tmp_path, STUDY, text))
    assert study.to_time[0] == "long"
    timed = tmp_path / "timed.toml"
    timed.write_text(write_toml(study.runs["long"].tables))
    assert step_seconds({"long": read_recipe(timed, ["run.batch_size=4"])}, turns=1)["long"] > 0


def test_other_seeds_and_some_runs_bring_what_they_need(tmp_path: Path) -> None:
    text = ('as_long_as = "short"', 'set = {networks.denoiser.init_from = "{teacher}"}')
    study = read_study(written(tmp_path, STUDY, text)).with_seeds([4]).narrowed(["long"])
    assert list(study.runs) == ["teacher", "long"]
    assert list(read_study(written(tmp_path)).narrowed(["long"]).runs) == ["short", "long"]
    assert [row.key for row in study.rows] == ["long", "long/DDIM"]
    assert study.runs["long"].seeds == (4,) and study.runs["teacher"].seeds == (0,)


def test_names_in_braces_are_folders_and_what_names_a_run_comes_after_it(tmp_path: Path) -> None:
    text = ('as_long_as = "short"', 'set = {networks.denoiser.init_from = "{teacher}"}')
    study = read_study(written(tmp_path, STUDY, text))
    assert study.runs["long"].after == ("teacher",)
    tables = filled(study.runs["long"].tables, {"teacher": Path("/there")})
    assert tables["networks"]["denoiser"]["init_from"] == "/there"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seeds = [0, 1]", "seeds = [0, 0]", ":2: [study] seeds must be one or several different numbers"),
        ('title = "Short"', 'titel = "x"', ":16: [runs.short] the table has no option 'titel'. Did you mean"),
        ('recipe = "flow_25gaussians"', 'recipe = "flow_25gausians"', "Did you mean 'flow_25gaussians'?"),
        ("run.batch_size = 32", "run.batch_sise = 32", "points.toml:7: [run] the table has no option"),
        ("steps = 100", "steps = 100\nimages = 3", "[runs.short] states steps and images: a run has one"),
        ('as_long_as = "short"', 'as_long_as = "shirt"', "no run 'shirt'. Did you mean 'short'?"),
        ('"ddim"', '"dddim"', ":25: [sampler] type 'dddim' is not installed. Did you mean 'ddim'?"),
        ("sampler = {", "sample = {", "there is no 'sample': a way to sample has sampler, start, guidance."),
        ("modes25 = {}", "modes52 = {}", ":31: [metrics.modes52] type 'modes52' is not installed. Did you"),
        ('"long/DDIM"', '"long/DIM"', "there is no 'long/DIM': the study scores short, long, long/DDIM."),
        ("run.batch_size = 32", "run = 3", "points.toml:7: 'run' must be a table, not 3"),
        ("steps = 100", "set = 3", "points.toml:17: [runs.short] 'set' must be a table, not 3."),
        ('"DDIM" = {sampler = {type = "ddim"}}', "x = 3", "[runs.long.samplers] 'x' must be a table, not 3."),
        ('"DDIM" =', '"a b" = {}\n"a/b" = {}\n"DDIM" =', "would be kept in files of one name"),
        ("[images]", "[imgaes]", "there is no section 'imgaes'. Did you mean 'images'?"),
        ("run.batch_size = 32", 'networks.denoiser.init_from = "{short}"', "needs itself"),
        ('title = "Short"', 'set = {networks.denoiser.init_from = "{tee}"}', "the study has no run 'tee'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, before: str, after: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_study(written(tmp_path, STUDY, (before, after)))
    assert said in str(caught.value)
    assert "points.toml" in str(caught.value)


def test_mistakes_of_several_runs_are_told_together(tmp_path: Path) -> None:
    texts = (
        ("steps = 100", "steps = 100\nset = {run.stpes = 3}"),
        ("[runs.long.samplers]", "[runs.long.set]\nrn.x = 1\n[runs.long.samplers]"),
    )
    with pytest.raises(RecipeError) as caught:
        read_study(written(tmp_path, STUDY, *texts))
    assert "'stpes'" in str(caught.value) and "'rn'" in str(caught.value)


def test_an_unknown_scale_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no \[scale.tinny\]: it has tiny. Did you mean 'tiny'"):
        read_study(written(tmp_path), "tinny")


@pytest.mark.parametrize("name", [one.name for one in packaged("study")])
def test_every_packaged_study_is_whole_and_has_a_tiny_scale(name: str) -> None:
    study = read_study(name, "tiny")
    assert "Cost:" in study.about and "Question:" in study.about
    assert study.comparisons and len(study.rows) > 1
    assert all(run.steps <= 100 for run in study.runs.values())


def test_what_the_study_drops_of_a_recipe_is_told(tmp_path: Path) -> None:
    study = read_study(written(tmp_path, STUDY, ("run.batch_size = 32", 'sampler = {type = "ddim"}')))
    (note,) = study.notes
    assert "points.toml:7: [sampler] type 'euler' became 'ddim', which drops num_inference_steps" in note
