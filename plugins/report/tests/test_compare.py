"""`toolkit compare`: runs ranked by scores that can be compared, and where their recipes differ."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_runs import refused

from toolkit.cli import main
from toolkit.runs.read import RunSummary, ScoreFile, read_run
from toolkit_report.differences import ABSENT, Difference, differences, show
from toolkit_report.ranking import labels

PROTOCOL = {"metric": {"type": "m"}, "real": {"split": "held_out", "num": 50}}
SAMPLING = {"sampler": {"type": "ddim", "num_inference_steps": 20}, "seed": 0}
Measure = Callable[..., None]


@pytest.fixture
def pair(runs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two runs without scores."""
    for name in ("ddpm", "ddgan"):
        shutil.copytree(runs / name, tmp_path / "runs" / name)
    return tmp_path / "runs" / "ddpm", tmp_path / "runs" / "ddgan"


def weights(run: Path, identity: str = "aa") -> dict[str, Any]:
    """Whose a score is, of the run as it stands."""
    stated = read_run(run).pipeline
    assert stated is not None
    return {"identity": identity, "steps": stated["steps"], "weights": stated["weights"]}


@pytest.fixture
def measured() -> Measure:
    """Write a score into a run, by a protocol that has `num` and `split`, of samples by so many `steps`."""

    def measure(
        run: Path,
        better: dict[str, Any],
        num: int = 50,
        split: str = "held_out",
        steps: int = 20,
        **values: float,
    ) -> None:
        protocol = {**PROTOCOL, "real": {"split": split, "num": num}}
        sampling = {**SAMPLING, "sampler": {"type": "ddim", "num_inference_steps": steps}}
        name = next(iter(values)).partition("_")[0]
        ScoreFile.measured(name, values, better, protocol, sampling, weights(run)).write(run / "scores")

    return measure


def compare(*arguments: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, ["compare", *map(str, arguments)])


def ranking(*arguments: object) -> list[str]:
    """The names of the runs in the order shown, with the mark of the best."""
    done = compare(*arguments)
    assert done.exit_code == 0, done.output
    table = done.output.split("recipes differ in")[0].splitlines()
    return [line.split()[0] + ("*" if "*" in line else "") for line in table if " ddgan " in f"{line} " or
            " ddpm " in f"{line} "]  # fmt: skip


@pytest.mark.parametrize(("better", "first"), [("lower", "ddgan*"), ("higher", "ddpm*")])
def test_the_direction_that_the_metric_states_ranks(
    pair: tuple[Path, Path], measured: Measure, better: str, first: str
) -> None:
    for run, value in zip(pair, (8.0, 5.0), strict=True):
        measured(run, {"m_x": better}, m_x=value)
    assert ranking(*pair)[0] == first


def test_a_score_that_states_no_direction_ranks_nothing(pair: tuple[Path, Path], measured: Measure) -> None:
    for run, value in zip(pair, (8.0, 5.0), strict=True):
        measured(run, {}, m_x=value)
    assert "does not say whether higher or lower is better" in refused(compare(*pair, "--by", "m_x"))
    assert ranking(*pair) == ["ddpm", "ddgan"]


def test_only_the_newest_score_by_a_protocol_counts(pair: tuple[Path, Path], measured: Measure) -> None:
    for run, value in zip(pair, (8.0, 5.0), strict=True):
        measured(run, {"m_x": "lower"}, m_x=value)
    (earlier,) = (pair[0] / "scores").iterdir()
    again = ScoreFile.measured(
        "m", {"m_x": 1.0}, {"m_x": "lower"}, PROTOCOL, SAMPLING, weights(pair[0], "bb")
    )
    again.write(pair[0] / "scores")
    os.utime(earlier, (2e9, 2e9))  # as a copy of the folder may do
    assert ranking(*pair)[0] == "ddpm*" and "8" not in compare(*pair).output.split("recipes")[0]


def test_scores_with_different_fingerprints_are_refused_and_what_differs_is_said(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    for run, num, split in zip(pair, (50, 100), ("held_out", "train"), strict=True):
        measured(run, {"m_x": "lower"}, num, split, m_x=1.0)
    said = refused(compare(*pair)).splitlines()
    assert "scores of m have different fingerprints (ddpm " in said[0]
    assert said[1:3] == [
        "error:   real.split: held_out and train",
        "error:   real.num: 50 and 100",
    ]


def test_anyway_shows_them_marked_and_names_none_the_best(pair: tuple[Path, Path], measured: Measure) -> None:
    for run, num, value in zip(pair, (50, 100), (8.0, 5.0), strict=True):
        measured(run, {"m_x": "lower"}, num, m_x=value)
    assert ranking(*pair, "--anyway") == ranking(*pair, "--anyway", "--by", "m_x") == ["ddpm", "ddgan"]
    shown = compare(*pair, "--anyway").output
    assert "Not ranked" in shown and "Ranked by" not in shown
    assert "8 (a)" in shown and "5 (b)" in shown
    assert "real.num is 50 in (a), 100 in (b)" in shown


@pytest.mark.parametrize("flags", [(), ("--anyway",)])
def test_a_metric_that_cannot_be_compared_does_not_keep_another_from_ranking(
    pair: tuple[Path, Path], measured: Measure, flags: tuple[str, ...]
) -> None:
    for run, num, value in zip(pair, (50, 100), (1.0, 2.0), strict=True):
        measured(run, {"a_x": "lower"}, num, a_x=value)
        measured(run, {"m_x": "higher"}, m_x=value)
    assert ranking(*pair, *flags) == ranking(*pair, "--by", "m_x", *flags) == ["ddgan*", "ddpm"]
    shown = compare(*pair, *flags).output
    assert "Scores of a by different protocols" in shown
    assert ("--anyway shows them" in shown) != bool(flags) and ("1 (a)" in shown) == bool(flags)
    assert "scores of a have different fingerprints" in refused(compare(*pair, "--by", "a_x"))


def test_how_samples_were_made_forbids_no_ranking_and_stands_beside_the_score(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    for run, steps, value in zip(pair, (20, 4), (8.0, 5.0), strict=True):
        measured(run, {"m_x": "lower"}, steps=steps, m_x=value)
    assert ranking(*pair) == ["ddgan*", "ddpm"]
    shown = compare(*pair).output
    assert "ddim 20" in shown and "ddim 4" in shown and "protocols" not in shown


def test_a_run_that_was_sampled_in_several_ways_has_a_row_for_each(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    for steps, value in ((20, 8.0), (5, 9.0)):
        measured(pair[0], {"m_x": "lower"}, steps=steps, m_x=value)
        measured(pair[0], {"a_x": "higher"}, steps=steps, a_x=value)
    measured(pair[1], {"m_x": "lower"}, m_x=8.5)
    lines = [
        line.split()[:3]
        for line in compare(*pair).output.splitlines()
        if line.startswith((" ddpm", " ddgan"))
    ]
    assert [line[0].rstrip(",") for line in lines] == ["ddpm", "ddgan", "ddpm"]
    assert lines[0] == ["ddpm,", "ddim", "20"] and lines[2] == ["ddpm,", "ddim", "5"]


def test_scores_of_an_earlier_version_are_named_and_have_to_be_measured_again(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    measured(pair[0], {"m_x": "lower"}, m_x=8.0)
    (file,) = (pair[0] / "scores").iterdir()
    stated = json.loads(file.read_text())
    stated["protocol"]["sampling"] = stated.pop("sampling")
    file.write_text(json.dumps(stated))
    shown = compare(*pair).output
    assert "ddpm: scores of an earlier version have to be measured again: m" in shown and "m_x" not in shown


def test_held_out_losses_of_the_same_objective_and_data_rank(pair: tuple[Path, Path]) -> None:
    other = Path(shutil.copytree(pair[0], pair[0].with_name("longer")))
    for run, loss in ((pair[0], 0.5), (other, 0.25), (pair[1], 0.125)):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 4, "held_out/denoiser/loss": loss}) + "\n")
    shown = compare(pair[0], other, pair[1])
    table = shown.output.split("recipes differ in")[0]
    assert "Ranked by held_out/denoiser/loss" in table
    assert "* 0.25" in table and "0.5" in table and "0.125" not in table  # of another objective
    assert "held_out" not in compare(pair[0], pair[1]).output.split("recipes differ in")[0]


def test_the_comparison_as_json_has_what_the_table_has(pair: tuple[Path, Path], measured: Measure) -> None:
    measured(pair[0], {"m_x": "lower"}, m_x=8.0)
    measured(pair[1], {"m_x": "lower"}, m_x=float("inf"))
    said = json.loads(compare(*pair, "--json").stdout)
    assert said["ranked_by"] == "m_x" and [row["name"] for row in said["rows"]] == ["ddpm", "ddgan"]
    values = [list(row["scores"].values()) for row in said["rows"]]
    assert values == [[8.0], [None]]  # JSON has no infinity
    assert said["rows"][0]["sampling"]["sampler"]["type"] == "ddim"
    assert said["differences"]["objective.type"] == {"ddpm": "denoising", "ddgan": "ddgan"}


def test_scores_of_earlier_weights_are_left_out_and_named(pair: tuple[Path, Path], measured: Measure) -> None:
    for run, value in zip(pair, (8.0, 5.0), strict=True):
        measured(run, {"m_x": "lower"}, m_x=value)
    pipeline = pair[1] / "pipeline" / "pipeline.json"
    stated = json.loads(pipeline.read_text())
    pipeline.write_text(json.dumps(stated | {"steps": stated["steps"] + 1}))  # as a resumed run does
    assert ranking(*pair) == ["ddpm", "ddgan"]
    assert f"ddgan: left out scores of earlier weights: m at step {stated['steps']}" in compare(*pair).output
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["runs", str(pair[0].parent)]).output
    assert "(1 of earlier weights)" in listed and "m_x 5" not in listed and "m_x 8" in listed


def test_a_protocol_that_all_runs_share_is_compared_and_others_are_left_out(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    for run, value in zip(pair, (8.0, 5.0), strict=True):
        measured(run, {"m_x": "lower"}, m_x=value)
    measured(pair[0], {"m_x": "lower"}, 100, m_x=1.0)
    assert ranking(*pair) == ["ddgan*", "ddpm"]


def test_one_of_several_shared_protocols_is_chosen_by_its_fingerprint(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    for split, values in (("held_out", (8.0, 5.0)), ("train", (1.0, 2.0))):
        for run, value in zip(pair, values, strict=True):
            measured(run, {"m_x": "lower"}, 50, split, m_x=value)
    said = refused(compare(*pair, "--by", "m_x"))
    held_out = next(s for s in read_run(pair[0]).scores if s.protocol["real"]["split"] == "held_out")
    assert f"m_x@{held_out.fingerprint}" in said
    shown = compare(*pair, "--by", f"m_x@{held_out.fingerprint}").output
    assert shown.index("ddgan") < shown.index("ddpm")


def test_a_run_without_the_score_comes_last_and_a_misspelt_one_is_corrected(
    pair: tuple[Path, Path], measured: Measure
) -> None:
    measured(pair[1], {"fid_x": "lower"}, fid_x=5.0)
    assert ranking(*pair) == ["ddgan", "ddpm"]
    assert "Did you mean 'fid_x'?" in refused(compare(*pair, "--by", "fdi_x"))


def test_a_number_that_is_not_finite_is_no_best_score(pair: tuple[Path, Path], measured: Measure) -> None:
    measured(pair[0], {"m_x": "lower"}, m_x=float("-inf"))
    measured(pair[1], {"m_x": "lower"}, m_x=5.0)
    assert ranking(*pair)[0] == "ddgan"


def test_recipes_are_compared_key_by_key(pair: tuple[Path, Path]) -> None:
    shown = [line.split() for line in compare(*pair).output.splitlines()]
    assert ["objective.type", "denoising", "ddgan"] in shown
    assert ["schedule.num_train_timesteps", "20", "4"] in shown
    assert not any(line and line[0] in ("run.out", "run.batch_size", "data.type") for line in shown)


def test_differences_are_keys_and_a_table_that_some_lack_is_one() -> None:
    a = {"same": 1, "x": {"type": "p", "k": 2, "own": 5}}
    b = {"same": 1, "x": {"type": "q", "k": 3}, "y": {"lr": 0.1, "inner": {"z": None}}}
    found = list(differences([a, b]))
    assert found == [
        Difference("x.type", ("p", "q")),
        Difference("x.k", (2, 3)),
        Difference("x.own", (5, ABSENT)),
        Difference("y", (ABSENT, b["y"])),
    ]
    assert [d.key for d in found if d.lacking] == ["x.own"]  # an option of the other type
    assert found[3].texts() == ("–", "lr=0.1 inner={z=null}")
    assert list(differences([a, a])) == [] and len(show("x" * 500)) == 100


def test_none_is_a_value_and_no_lack_of_one() -> None:
    assert list(differences([{"k": None}, {}])) == [Difference("k", (None, ABSENT))]


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "b" / "y"]
    found = labels([RunSummary(path, "finished", 1, 0.0, {}, (), ()) for path in paths])
    assert found == ["a/x", "b/x", "y"]


def test_metrics_that_are_damaged_are_read_as_far_as_they_go(pair: tuple[Path, Path]) -> None:
    file = pair[0] / "metrics.jsonl"
    before = len(read_run(pair[0]).records)
    file.write_bytes(file.read_bytes() + b'\xff{"step"\n[1]\n')
    assert len(read_run(pair[0]).records) == before


def test_training_time_goes_on_where_a_run_was_resumed(pair: tuple[Path, Path]) -> None:
    records = [{"step": i, "seconds": s, "images_per_second": v} for i, s, v in
               ((1, 10.0, 5.0), (2, 20.0, 7.0), (3, 4.0, 6.0), (4, 9.0, 100.0))]  # fmt: skip
    (pair[0] / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = read_run(pair[0])
    assert run.train_seconds == 29.0 and run.images_per_second == 6.5


def test_a_damaged_cost_card_is_named(pair: tuple[Path, Path]) -> None:
    (pair[0] / "cost.json").write_text("{")
    assert f"{pair[0] / 'cost.json'}: cannot be read" in refused(compare(*pair))
