"""`toolkit runs`: what a folder of runs holds."""

import fcntl
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_runs import resumed

from toolkit.cli import main
from toolkit.runs.read import read_run, runs_in


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "ddpm", tmp_path / "runs" / "group" / "mine")
    return tmp_path / "runs" / "group" / "mine"


def state(run: Path, status: str, step: int = 0) -> None:
    (run / "run.json").write_text(json.dumps({"status": status, "step": step, "time": time.time()}))


def test_a_run_is_summarised_by_its_files(run: Path) -> None:
    summary = read_run(run)
    assert (summary.name, summary.status, summary.step) == ("mine", "finished", 4)
    assert summary.recipe["objective"]["type"] == "denoising"
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert summary.last("denoiser/loss") == [r["denoiser/loss"] for r in last if "denoiser/loss" in r][-1]
    assert summary.last("nothing") is None


def test_a_run_is_running_as_long_as_somebody_holds_it(run: Path) -> None:
    state(run, "running")
    assert (read_run(run).status, read_run(run).step) == ("killed", 4)  # the step of its last record
    with (run / ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(run).status == "running"


def test_runs_are_listed_with_losses_scores_and_age_newest_first(run: Path) -> None:
    state(run, "finished", 4)  # just now: the fixture may be of some minutes ago
    values = {"fid_mine": 12.5, "other": 1.0}
    score = {"metric": "fid", "values": values, "curves": {}, "fingerprint": "ab", "protocol": {}}
    score["sampling"] = None
    stated = json.loads((run / "pipeline" / "pipeline.json").read_text())
    score["model"] = {"steps": stated["steps"], "weights": stated["weights"]}
    (run / "scores").mkdir()
    (run / "scores" / "fid-ab.json").write_text(json.dumps(score))
    older = run.parent / "older"
    shutil.copytree(run, older)
    hours_ago = time.time() - 3 * 3600
    os.utime(older / "metrics.jsonl", (hours_ago, hours_ago))
    (older / "run.json").write_text(json.dumps({"status": "stopped", "step": 2, "time": hours_ago}))
    assert [r.name for r in runs_in(run.parents[1])] == ["mine", "older"]
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(main, ["runs", str(run.parents[1])]).output
    mine, old = (
        next(line for line in shown.splitlines() if name in line) for name in ("group/mine", "older")
    )
    assert "finished" in mine and "fid_mine 12.5" in mine and "now" in mine
    assert "stopped" in old and "3 h" in old


@pytest.mark.parametrize("name", ["recipe.toml", "run.json", "scores/fid.json"])
def test_a_damaged_run_is_named_beside_the_others(run: Path, name: str) -> None:
    shutil.copytree(run, run.parent / "sound")
    (run / "scores").mkdir(exist_ok=True)
    (run / name).write_text("{")
    done = CliRunner(env={"COLUMNS": "400"}).invoke(main, ["runs", str(run.parents[1])])
    assert done.exit_code == 0, done.output
    damaged, sound = (
        next(x for x in done.output.splitlines() if f"group/{n} " in x) for n in ("mine", "sound")
    )
    assert f"unreadable: {run}" in damaged and "finished" in sound


@pytest.mark.parametrize(("name", "text"), [
    ("run.json", '{"status": "finished", "step": 1e400, "time": 1}'),
    ("run.json", '{"status": "finished", "step": -1, "time": 1}'),
    ("run.json", '{"status": "finished", "step": 1, "time": 1e999}'),
    ("run.json", '{"status": [], "step": 1, "time": 1}'),
    ("recipe.toml", "objective = 3"),
    ("recipe.toml", "a = " + "[" * 5000),
    ("scores/fid.json", '{"metric": "fid", "values": {"fid": [1]}, "curves": {}, "fingerprint": "a",'
     ' "protocol": {}, "sampling": null, "model": {}}'),
    ("scores/fid.json", '{"metric": "fid", "values": {"fid": 1}, "curves": {}, "fingerprint": "a",'
     ' "protocol": {"real": [1]}, "sampling": null, "model": {}}'),
    ("scores/fid.json", "[]"),
    ("cost.json", '{"parameters": 3}'),
    ("pipeline/pipeline.json", '{"sample_shape": 3}'),
])  # fmt: skip
def test_a_value_that_no_run_writes_makes_its_run_unreadable_and_no_other(
    run: Path, name: str, text: str
) -> None:
    shutil.copytree(run, run.parent / "sound")
    (run / "scores").mkdir(exist_ok=True)
    (run / name).write_text(text)
    damaged, sound = sorted(runs_in(run.parents[1]), key=lambda one: one.name)
    assert damaged.status.startswith(f"unreadable: {run / name}") and sound.status == "finished"
    assert CliRunner().invoke(main, ["runs", str(run.parents[1])]).exit_code == 0


@pytest.mark.parametrize("line", [
    b'{"step": 3, "denoiser/loss": 1.\xff5}', b'{"step": 3, "denoiser/loss": [1]}', b'{"step": 1e400}', b"[]",
    b'{"step": 3, "denoiser/loss": "1"}', b'{"step": 3, "denoiser/loss": 1' + b"0" * 400 + b"}", b"[" * 9000,
    b'{"ste\xf0": 3}', b'{"step": 3, "denoiser/l\xefss": 1}', b'{"denoiser/loss": 1}',
])  # fmt: skip
def test_damaged_lines_of_the_metrics_are_left_out_and_counted(run: Path, line: bytes) -> None:
    path = run / "metrics.jsonl"
    before, whole = read_run(run), path.read_bytes()
    first, rest = whole.split(b"\n", 1)
    path.write_bytes(first + b"\n" + line + b"\n" + rest)
    after = read_run(run)
    assert (after.records, after.damaged) == (before.records, 1)
    assert (
        "1 damaged lines left out" in CliRunner(env={"COLUMNS": "160"}).invoke(main, ["runs", "runs"]).output
    )
    path.write_bytes(whole + line[:-1])  # killed while it wrote
    assert (read_run(run).records, read_run(run).damaged) == (before.records, 0)


def test_a_run_with_damaged_metrics_is_resumed_without_them_and_says_so(run: Path) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + bytes([whole[20] ^ 128]) + whole[21:])
    done = resumed(run / "recipe.toml", f"run.out={run}", "run.steps=6")
    assert f"{path.name}: 1 damaged lines are left out" in done.output.replace("\n", "")
    assert read_run(run).damaged == 0


def test_a_loss_that_was_never_finite_is_left_out(run: Path) -> None:
    lines = ['{"step": 4, "denoiser/loss": 1.5}', '{"step": 4, "held_out/denoiser/loss": null}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    done = CliRunner(env={"COLUMNS": "160"}).invoke(
        main, ["runs", str(run.parents[1])], catch_exceptions=False
    )
    assert "denoiser/loss 1.5" in done.output and "held_out" not in done.output


def test_names_are_text_and_no_markup(run: Path) -> None:
    run.rename(run.with_name("[red]mine"))
    assert (
        "group/[red]mine"
        in CliRunner(env={"COLUMNS": "160"}).invoke(main, ["runs", str(run.parents[1])]).output
    )


def test_a_lock_that_cannot_be_looked_at_leaves_open_whether_the_run_is_running(run: Path) -> None:
    state(run, "running")
    (run / ".lock").unlink(missing_ok=True)
    assert read_run(run).status == "killed"
    (run / ".lock").mkdir()
    assert read_run(run).status == "running or unknown"


def test_a_missing_folder_is_named() -> None:
    done = CliRunner().invoke(main, ["runs", "nowhere"])
    assert done.exit_code == 2 and "nowhere: no such folder" in done.stderr


def test_without_runs_the_first_one_is_suggested(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["runs"])
    assert done.exit_code == 0 and "no runs yet: toolkit train quickstart" in done.output


def test_several_folders_are_one_list_with_sizes(run: Path) -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["runs", str(run), str(run.parent)]).output
    assert shown.count(str(run)) == 2 and "KiB" in shown


def test_clean_removes_what_can_be_made_again_and_the_run_still_goes_on(run: Path, write) -> None:  # type: ignore[no-untyped-def]
    early = run / "checkpoints" / "step-0000002"
    shutil.copytree(run / "checkpoints" / "step-0000004", early)
    (run / "scores" / "samples-ab").mkdir(parents=True)
    (run / "scores" / "samples-ab" / "000000.safetensors").write_bytes(bytes(3000))
    (run / "scores" / "note.txt").write_text("mine")
    tried = CliRunner().invoke(main, ["clean", str(run), "--dry-run"])
    assert "would remove" in tried.output and early.exists()
    done = CliRunner().invoke(main, ["clean", str(run)])
    assert (
        done.exit_code == 0 and "samples of an evaluation, which would be drawn again, 2.9 KiB" in done.output
    )
    assert not early.exists() and not (run / "scores" / "samples-ab").exists()
    assert (run / "scores" / "note.txt").exists() and (run / "pipeline").exists()
    assert resumed(write(), f"run.out={run}", "run.steps=5").exit_code == 0


def test_clean_keeps_what_resuming_would_take_if_the_newest_checkpoint_is_damaged(run: Path) -> None:
    whole, damaged = (run / "checkpoints" / name for name in ("step-0000004", "step-0000006"))
    shutil.copytree(whole, damaged)
    (damaged / "state.json").write_text("{}")
    done = CliRunner().invoke(main, ["clean", str(run)])
    assert done.exit_code == 0 and whole.exists() and damaged.exists()


def test_clean_keeps_the_checkpoints_of_a_run_that_has_nothing_else(run: Path) -> None:
    shutil.rmtree(run / "pipeline")
    done = CliRunner().invoke(main, ["clean", str(run), "--checkpoints"])
    assert done.exit_code == 2 and "its checkpoints are all there is" in done.output
    assert (run / "checkpoints" / "step-0000004").exists()


def test_clean_touches_no_run_that_is_in_use_and_follows_no_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (run / "scores").mkdir()
    (run / "scores" / "samples-ab").symlink_to(tmp_path / "mine")
    done = CliRunner().invoke(main, ["clean", str(run)])
    assert done.exit_code == 2 and "is a link" in done.output and (tmp_path / "mine").exists()
    (run / "scores" / "samples-ab").unlink()
    (tmp_path / "mine" / "samples-ab").mkdir()
    (run / "scores" / "step-0000004").symlink_to(tmp_path / "mine")
    done = CliRunner().invoke(main, ["clean", str(run)])
    assert done.exit_code == 2 and "is a link" in done.output and (tmp_path / "mine" / "samples-ab").exists()
    with (run / ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CliRunner().invoke(main, ["clean", str(run), "--checkpoints"])
        assert done.exit_code == 2 and "is in use" in done.output
    assert (run / "checkpoints" / "step-0000004").exists()


def test_a_checkpoint_of_a_step_is_sampled_or_those_that_there_are_are_named(run: Path) -> None:
    sampled = CliRunner().invoke(
        main, ["sample", str(run), "--checkpoint", "4", "--num", "1", "--out", "a.png"]
    )
    assert sampled.exit_code == 0 and Path("a.png").is_file(), sampled.output
    refused = CliRunner().invoke(main, ["sample", str(run), "--checkpoint", "3"])
    assert refused.exit_code == 2 and "has no checkpoint of step 3: there are 4" in refused.output


def test_the_list_as_json_has_the_last_of_every_value(run: Path) -> None:
    done = CliRunner().invoke(main, ["runs", str(run.parents[1]), "--json"])
    (found,) = json.loads(done.stdout)
    assert found["run"] == str(run) and found["step"] == read_run(run).step
    assert found["last"]["denoiser/loss"] == read_run(run).last("denoiser/loss") and found["bytes"] > 0
