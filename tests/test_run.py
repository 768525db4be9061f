"""A run and its folder: what it leaves, what it refuses to touch, and how it goes on."""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from small_runs import checkpoints, content, finished, metrics, refused, resumed, train

from toolkit.cli import main
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.runs.folder import RunFolder

Write = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Where the tiny recipe's run lies, once there is one."""
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def done(runs: Path, run: Path) -> Path:
    """The same, with a finished run in it."""
    return shutil.copytree(runs / "ddpm", run)


def test_the_stored_recipe_resolves_to_itself(runs: Path) -> None:
    stored = runs / "ddpm" / "recipe.toml"
    registry = plugins.load().registry.copy()
    assert resolve(read_layers(stored), registry).to_toml() == stored.read_text()


def test_a_run_folder_is_a_recipe_that_leaves_its_folder_out(done: Path) -> None:
    """Copies, children and other places never train into the run whose recipe they take."""
    stored = done / "recipe.toml"
    stored.write_text(re.sub("(?m)^out = .*", f'out = "{done}"', stored.read_text()))
    assert read_layers(stored).values["run"]["out"] == str(done)  # a file is taken as it is
    before = content(done)
    for source in ("runs/tiny", "runs/tiny/", "./runs/../runs/tiny"):
        assert read_layers(source).name == "tiny" and "out" not in read_layers(source).values["run"]
        assert "already holds a run" in refused(train(source))
    shutil.copytree(done, "elsewhere/copy")
    finished("elsewhere/copy", "run.steps=1", "samples.num=0")
    Path("child.toml").write_text('extends = ["runs/tiny"]\n[run]\nsteps = 1\n[samples]\nnum = 0\n')
    finished("child.toml")
    assert content(done) == before
    assert {path.name for path in Path("runs").iterdir()} == {"tiny", "copy", "child"}


def test_a_run_that_is_named_itself_goes_on_wherever_it_lies(done: Path) -> None:
    shutil.move(done, "elsewhere")
    resumed("./elsewhere", "run.steps=5", "samples.num=0")
    assert checkpoints(Path("elsewhere"))[-1] == "step-0000005" and not done.exists()


def test_the_environment_names_versions_plugins_and_the_state_of_git(runs: Path) -> None:
    environment = json.loads((runs / "ddpm" / "environment.json").read_text())
    assert {"torch", "diffusers", "accelerate"} <= environment["packages"].keys()
    assert environment["plugins"]["ddpm"].startswith("diffusion-toolkit ")
    assert {"git", "command", "python", "device"} <= environment.keys()


def test_every_record_has_its_step_and_losses(runs: Path) -> None:
    records = [record for record in metrics(runs / "ddgan") if "denoiser/loss" in record]
    assert [(record["step"], record["images"]) for record in records] == [(2, 16), (4, 32)]
    assert all("discriminator/loss" in record and record["images_per_second"] > 0 for record in records)


def test_measures_are_recorded_as_held_out(runs: Path) -> None:
    (record,) = [record for record in metrics(runs / "ddpm") if "held_out/denoiser/loss" in record]
    assert record["step"] == 4


def test_grids_of_the_raw_and_the_averaged_weights_are_pictures(runs: Path) -> None:
    samples = runs / "ddpm" / "samples"
    assert sorted(p.name for p in samples.iterdir()) == ["step-0000004-ema.png", "step-0000004.png"]
    for path in samples.iterdir():
        with Image.open(path) as image:
            image.verify()


def test_a_finished_run_says_so(runs: Path) -> None:
    state = json.loads((runs / "ddpm" / "run.json").read_text())
    assert (state["status"], state["step"]) == ("finished", 4)


def test_no_file_of_a_run_is_a_pickle_or_an_archive(runs: Path) -> None:
    starts = {name: data[:2] for name, data in content(runs / "ddgan").items()}
    assert starts and not [
        name for name, start in starts.items() if start in (b"PK", b"\x80\x02", b"\x80\x04")
    ]


def test_a_run_is_never_overwritten_unasked(write: Write, done: Path) -> None:
    before = content(done)
    assert "already holds a run (finished at step 4)" in refused(train(write(), "run.steps=6"))
    assert content(done) == before


def test_overwriting_replaces_the_run_and_leaves_what_others_put_there(write: Write, done: Path) -> None:
    (done / "notes.md").write_text("mine")
    finished(write(), "run.steps=2", flags=("--overwrite",))
    assert (done / "notes.md").read_text() == "mine"
    assert checkpoints(done) == ["step-0000002"]
    assert {record["step"] for record in metrics(done)} == {2}
    names = sorted(path.name for path in (done / "samples").iterdir())
    assert names == ["step-0000002-ema.png", "step-0000002.png"]


@pytest.mark.parametrize("theirs", ["thesis.tex", "recipe.toml", "samples/dog.png"])
@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_of_somebody_elses_files_is_refused(
    write: Write, run: Path, theirs: str, flags: tuple[str, ...]
) -> None:
    file = run / theirs
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert "is not a run folder, it holds other files" in refused(train(write(), flags=flags))
    assert content(run) == {theirs: b"mine"}


def test_a_run_is_not_replaced_by_one_that_cannot_start(write: Write, done: Path) -> None:
    before = content(done / "checkpoints")
    refused(train(write(), 'data={type="folder", path="nowhere"}', flags=("--overwrite",)))
    assert content(done / "checkpoints") == before and (done / "recipe.toml").exists()


def test_a_run_that_is_half_removed_is_not_taken_for_a_finished_one(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stopped)
    assert RunFolder(done).finished() == 4
    with pytest.raises(KeyboardInterrupt):
        RunFolder(done).clear()
    assert RunFolder(done).finished() is None


def test_a_folder_that_another_process_uses_is_refused_and_the_process_named(write: Write, run: Path) -> None:
    run.mkdir(parents=True)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        assert f"{run.relative_to(Path.cwd())}: is in use by process 4711" in refused(train(write()))


def test_a_glance_at_the_lock_keeps_no_run_from_starting(write: Write, run: Path) -> None:
    run.mkdir(parents=True)
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as `toolkit runs` does
        folder = RunFolder(run)
        threading.Timer(0.1, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        folder.claim(resume=False, overwrite=False)
        folder.release()


def test_what_a_kill_left_half_written_is_removed_and_in_nobodys_way(write: Write, run: Path) -> None:
    (run / "checkpoints" / ".writing-step-0000002-0123abcd").mkdir(parents=True)
    (run / ".writing-recipe.toml-0123abcd").write_text("[ru")
    (run / ".lock").write_text("1")
    finished(write())
    assert not list(run.rglob(".writing-*"))


def test_how_often_a_run_writes_changes_nothing_of_what_it_learns(
    write: Write, runs: Path, run: Path
) -> None:
    """And grids are drawn from the same noise."""
    cadences = ["samples.every=1", "samples.batch_size=3", "checkpoints.every=3", "run.log_every=1"]
    finished(write(name="ddpm.toml"), f"run.out={run}", *cadences)
    assert content(run / "checkpoints" / "step-0000004") == content(runs / "ddpm/checkpoints/step-0000004")
    assert content(run / "samples")["step-0000004.png"] == content(runs / "ddpm/samples")["step-0000004.png"]


def test_a_run_may_go_on_with_other_cadences(write: Write, run: Path) -> None:
    finished(write(), "run.steps=2", "samples.every=1")
    resumed(write(), "checkpoints.every=3")
    assert checkpoints(run) == ["step-0000003", "step-0000004"]


def test_records_of_steps_that_are_taken_again_are_not_repeated(write: Write, run: Path) -> None:
    finished(write(), "checkpoints.every=2", "run.log_every=1")
    last = run / "checkpoints" / "step-0000004" / "manifest.json"
    last.unlink()  # as if it had not come to that
    (run / "run.json").write_text('{"status": "running", "step": 3}')
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "den')  # cut off
    resumed(write(), "checkpoints.every=2", "run.log_every=1")
    assert [record["step"] for record in metrics(run) if "denoiser/loss" in record] == [1, 2, 3, 4]


@pytest.mark.parametrize(("override", "difference"), [
    ("optimizers.denoiser.lr=0.5", "optimizers.denoiser.lr was 0.001 and is 0.5"),
    ("run.seed=3", "run.seed was 0 and is 3"),
    ("run.batch_size=16", "run.batch_size was 8 and is 16"),
])  # fmt: skip
def test_a_run_is_not_resumed_as_another_one(
    write: Write, done: Path, override: str, difference: str
) -> None:
    error = refused(train(write(), override, flags=("--resume",)))
    assert f"its checkpoints are of another recipe: {difference}" in error


def test_resuming_a_finished_run_says_how_to_go_on(write: Write, done: Path) -> None:
    before = content(done)
    error = refused(train(write(), flags=("--resume",)))
    assert "is finished, at step 4. To go on, set run.steps (or run.images) higher" in error
    assert content(done) == before


def test_a_run_that_was_cut_off_after_its_last_step_is_completed(write: Write, run: Path) -> None:
    finished(write())
    (run / "run.json").write_text('{"status": "running", "step": 0}')
    os.rename(run / "pipeline", run.parent / "pipeline")
    resumed(write())
    assert content(run / "pipeline") == content(run.parent / "pipeline")


@pytest.mark.parametrize(("keep", "left"), [
    (["checkpoints.keep_last=2"], ["step-0000003", "step-0000004"]),
    (["checkpoints.keep_last=1", "checkpoints.keep_every=2"], ["step-0000002", "step-0000004"]),
])  # fmt: skip
def test_the_newest_checkpoints_and_every_so_many_steps_are_kept(
    write: Write, run: Path, keep: list[str], left: list[str]
) -> None:
    finished(write(), "checkpoints.every=1", "samples.num=0", *keep)
    assert checkpoints(run) == left


BEST = ("run.steps=6", "run.measure_every=2", "samples.num=0", "run.micro_batch_size=8",
        "checkpoints.keep_last=1", "checkpoints.keep_best=held_out/denoiser/loss")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("which", ["lowest", "highest"])
def test_the_best_checkpoint_by_a_measure_is_kept_named_and_sampled(
    write: Write, run: Path, which: str
) -> None:
    """Rotation and `toolkit clean` leave it; the last is kept too, by which the run can go on."""
    said = finished(write(), *BEST, f"checkpoints.best_is={which}", "optimizers.denoiser.lr=0.1").output
    values = {r["step"]: r["held_out/denoiser/loss"] for r in metrics(run) if "held_out/denoiser/loss" in r}
    best = (min if which == "lowest" else max)(values, key=lambda step: values[step])
    assert len(values) == 3 and checkpoints(run) == sorted({f"step-{best:07d}", "step-0000006"})
    named = f"step {best}, held_out/denoiser/loss {values[best]:.4g}"
    assert named in said
    command = CliRunner(env={"COLUMNS": "200"})
    assert named in command.invoke(main, ["runs", str(run.parent)]).output
    assert command.invoke(main, ["clean", str(run)]).exit_code == 0
    assert f"step-{best:07d}" in checkpoints(run)
    for which_one in ("best", str(best)):
        sampled = ["sample", str(run), "--checkpoint", which_one, "--num", "1", "--out", f"{which_one}.png"]
        assert command.invoke(main, sampled).exit_code == 0
    assert Path("best.png").read_bytes() == Path(f"{best}.png").read_bytes()


@pytest.mark.slow
def test_the_best_checkpoint_changes_no_bit_and_survives_a_resumption(write: Write, run: Path) -> None:
    finished(write(), *BEST, "run.out=whole")
    finished(write(), *BEST, "run.steps=3")  # between two measures
    resumed(write(), *BEST)
    assert content(run / "checkpoints") == content(Path("whole/checkpoints"))
    finished(write(), *BEST, "checkpoints.keep_best=none", "run.out=without")
    last = "checkpoints/step-0000006/networks"
    assert content(run / last) == content(Path("without") / last)


@pytest.mark.parametrize(("values", "said"), [
    (["checkpoints.keep_best=held_out/denoiser/los", "run.measure_every=2"],
     "there is no 'held_out/denoiser/los'. Did you mean 'held_out/denoiser/loss'?"),
    (["checkpoints.keep_best=held_out/denoiser/loss", "run.measure_every=none"], "needs [run] measure_every"),
    (["checkpoints.keep_best=held_out/denoiser/loss", "run.measure_every=1", "data.split=all"],
     "this data gives no measures on held-out data"),
])  # fmt: skip
def test_a_best_that_could_never_be_measured_is_refused_before_training(
    write: Write, run: Path, values: list[str], said: str
) -> None:
    assert said in refused(train(write(), *values))
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize(("end", "step"), [("run.images=17", 3), ("run.minutes=1e-6", 0)])
def test_a_run_ends_by_images_or_by_time(write: Write, run: Path, end: str, step: int) -> None:
    finished(write(), "run.steps=none", end)
    assert checkpoints(run) == [f"step-{step:07d}"]


def test_resume_auto_starts_goes_on_and_has_nothing_to_do(write: Write, run: Path) -> None:
    """One command for a loop that restarts; a run without a checkpoint begins again."""
    auto = ("--resume", "auto")
    finished(write(), "run.steps=2", flags=auto)
    finished(write(), flags=auto)
    assert checkpoints(run)[-1] == "step-0000004"
    before = content(run)
    finished(write(), flags=auto)
    assert content(run) == before
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").write_text('{"status": "running", "step": 0}')
    assert "has no checkpoint" in refused(train(write(), flags=("--resume",)))
    finished(write(), flags=auto)
    assert checkpoints(run) == ["step-0000004"]
    assert "another recipe" in refused(train(write(), "run.seed=3", flags=auto))


def test_a_run_that_ends_while_another_start_waits_for_its_folder_is_not_replaced(
    write: Write, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = (done / "run.json").read_text()
    (done / "run.json").write_text('{"status": "running", "step": 0}')
    shutil.move(done / "checkpoints", "elsewhere")
    claim = RunFolder.claim

    def claimed(folder: RunFolder, **how: bool) -> None:
        shutil.move("elsewhere", done / "checkpoints")
        (done / "run.json").write_text(state)
        claim(folder, **how)

    before = (done / "pipeline/pipeline.json").stat().st_ino
    monkeypatch.setattr(RunFolder, "claim", claimed)
    finished(write(), flags=("--resume", "auto"))
    assert (done / "pipeline/pipeline.json").stat().st_ino == before


def test_a_deliberate_change_is_said_recorded_and_goes_on(write: Write, done: Path) -> None:
    new = ["optimizers.denoiser.lr=0.5", "run.batch_size=16", "run.micro_batch_size=8"]
    allow = ("--resume", "--change", "optimizers.denoiser.lr")
    error = refused(train(write(), *new, flags=allow))
    assert "run.batch_size was 8 and is 16" in error and "--change run.batch_size" in error
    assert "has no 'learning'" in refused(train(write(), flags=("--resume", "--change", "learning.rate")))
    result = finished(write(), *new, "run.steps=5", flags=(*allow, "--change", "run"))
    assert "from step 4 on, optimizers.denoiser.lr was 0.001 and is 0.5" in result.output
    lines = [json.loads(line) for line in (done / "changes.jsonl").read_text().splitlines()]
    keys = ["optimizers.denoiser.lr", "run.batch_size", "run.micro_batch_size"]
    assert [(line["step"], line["key"]) for line in lines] == [(4, key) for key in keys]
    assert (lines[0]["was"], lines[0]["is"]) == (0.001, 0.5)
    resumed(write(), *new, "run.steps=6")  # it is the run's own recipe now
    assert train(write(), flags=("--change", "run")).exit_code == 2


@pytest.mark.parametrize(
    "what", ["pipeline/thesis.tex", "pipeline/start/x/mine", "metrics.jsonl/", "samples"]
)
def test_what_is_in_the_way_of_saving_is_found_before_training(write: Write, done: Path, what: str) -> None:
    path = done / what
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if what.endswith("/") else path.write_text("mine")
    refused(train(write(), "run.steps=5", flags=("--resume",)))
    assert checkpoints(done) == ["step-0000004"]


def test_checkpoints_on_another_disk_are_resumed_and_not_overwritten(write: Write, done: Path) -> None:
    """Nor are hidden files in the pipeline in anybody's way: they stay."""
    elsewhere = done.parent / "elsewhere"
    (done / "checkpoints").rename(elsewhere)
    (done / "checkpoints").symlink_to(elsewhere)
    (done / "pipeline" / ".DS_Store").write_text("the system's")
    (done / "pipeline" / ".writing-README.md-0123abcd").write_text("half")
    assert "checkpoints: is a link" in refused(train(write(), flags=("--overwrite",)))
    resumed(write(), "run.steps=5")
    assert checkpoints(done)[-1] == "step-0000005" and (done / "checkpoints").is_symlink()
    assert (done / "pipeline" / ".DS_Store").exists() and not list(done.rglob(".writing-*"))


@pytest.mark.slow
def test_a_grid_that_a_kill_left_out_is_made_up_for(write: Write, run: Path) -> None:
    options = ["samples.every=2", "checkpoints.every=2", "run.measure_every=2"]
    finished(write(), *options)
    whole, kept = content(run / "samples"), metrics(run)
    (run / "samples" / "step-0000002.png").unlink()  # the one that is written last
    shutil.rmtree(run / "checkpoints" / "step-0000004")
    (run / "run.json").write_text('{"status": "running", "step": 0}')
    (run / "metrics.jsonl").write_text(json.dumps(kept[0]) + "\n")  # nor its measure
    resumed(write(), *options)
    assert content(run / "samples") == whole
    assert [record.keys() for record in metrics(run)] == [record.keys() for record in kept]
    assert [record["step"] for record in metrics(run)] == [2, 2, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["> /dev/full 2>&1", ">&- 2>&-"])
def test_training_goes_on_whatever_becomes_of_its_output(write: Write, run: Path, redirect: str) -> None:
    quoted = shlex.join([sys.executable, "-m", "toolkit", "train", str(write()), "--set", "run.log_every=1"])
    subprocess.run(["bash", "-c", f"set -o pipefail; {quoted} {redirect}"], timeout=120, check=True)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert len([record for record in metrics(run) if "denoiser/loss" in record]) == 4
