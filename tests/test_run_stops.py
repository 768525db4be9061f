"""How a run stops before its end: signals, a kill, and losses that are not finite."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import PLUGIN, checkpoints, content, finished, install, metrics, refused, train

from toolkit.data.reading import STOP_SIGNALS
from toolkit.devices.launch import stop_signals
from toolkit.training.trainer import Trainer

pytestmark = pytest.mark.slow  # runs, by the dozen

Write = Callable[..., Path]
BRITTLE = 'objective={type="brittle", at=3}'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Have these signals sent to this process when step 2 is done, with so many seconds between them."""

    def install_sender(*signals: int, pause: float = 0.0) -> None:
        source = f"""
import os, time
from toolkit import hookimpl
@hookimpl
def toolkit_step_done(step):
    if step == 2:
        for number in {[int(number) for number in signals]}:
            os.kill(os.getpid(), number)
            time.sleep({pause})
"""
        install(monkeypatch, tmp_path, "sender", source)

    return install_sender


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_of_these_signals_asks_to_stop_and_is_the_callers_again(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals("") as stop:
        with stop.gently():
            os.kill(os.getpid(), number)
        assert stop.number == number
    assert signal.getsignal(number) is before


def test_a_run_in_a_thread_leaves_signals_alone() -> None:
    def watch() -> None:
        with stop_signals(""):
            watched.append(signal.getsignal(signal.SIGTERM))

    watched: list[object] = []
    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert watched == [signal.getsignal(signal.SIGTERM)]


def test_a_signal_stops_the_run_with_a_checkpoint_and_a_command_that_goes_on_to_the_end(
    write: Write, tmp_path: Path, send: Callable[..., None]
) -> None:
    send(signal.SIGTERM)
    out = tmp_path / "a folder" / "[run]"
    result = train(write(name="my tiny.toml"), f"run.out={out}", "samples.num=3")
    assert result.exit_code == 143 and "stopped by SIGTERM at step 2" in result.output
    assert checkpoints(out) == ["step-0000002"]
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    (line,) = [line for line in result.output.splitlines() if line.startswith("go on with")]
    words = shlex.split(line.removeprefix("go on with"))
    assert words[:2] == ["toolkit", "train"] and words[-1] == "--resume"
    finished(words[2], flags=tuple(words[3:]))
    assert checkpoints(out)[-1] == "step-0000004"
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    assert "num = 3" in (out / "recipe.toml").read_text()


def test_the_same_signal_twice_at_once_is_one_and_answered_while_the_step_goes_on(
    write: Write, run: Path, send: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    send(signal.SIGINT, signal.SIGINT)  # as under torchrun, which passes on what the terminal sent already
    assert train(write()).exit_code == 130
    assert checkpoints(run) == ["step-0000002"]
    assert "SIGINT: stopping after this step, and saving" in capfd.readouterr().err


def test_a_second_interrupt_stops_at_once(write: Write, run: Path, send: Callable[..., None]) -> None:
    send(signal.SIGINT, signal.SIGINT, pause=1.1)
    result = train(write(), "checkpoints.every=1")
    assert result.exit_code == 130
    assert "interrupted at once; go on from the last checkpoint with   toolkit train" in result.output
    assert checkpoints(run) == ["step-0000001"]
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"


def test_a_loss_that_is_not_finite_is_named_with_step_turn_and_last_checkpoint(
    write: Write, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, "brittle", PLUGIN)
    error = refused(train(write(), BRITTLE, "checkpoints.every=2", "run.steps=9", "run.log_every=5"))
    assert "the loss of turn 'squares' is not finite at step 3" in error
    assert error.endswith(f"The last checkpoint is {run.relative_to(Path.cwd())}/checkpoints/step-0000002.")
    assert json.loads((run / "run.json").read_text())["status"] == "failed"


def test_weights_that_are_not_finite_are_never_saved(
    write: Write, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A finite loss with an infinite gradient: the next loss would show it, after the checkpoint."""
    install(monkeypatch, tmp_path, "brittle", PLUGIN)
    broken = 'objective={type="brittle", at=3, what="gradient"}'
    error = refused(train(write(), broken, "checkpoints.every=1", "run.steps=9", "run.log_every=5"))
    assert "the weights of 'denoiser' are not finite after step 3" in error
    last = run / "checkpoints" / checkpoints(run)[-1]
    assert last.name == "step-0000003"
    assert all(bool(t.isfinite().all()) for t in load_file(last / "networks/denoiser.safetensors").values())


def test_a_signal_to_the_whole_process_group_stops_a_run_whose_data_is_read_by_workers(
    write: Write, run: Path
) -> None:
    """Launchers, Slurm and systemd signal groups; a worker that died of it would take the run down."""
    options = ["run.steps=100000", "run.log_every=1", "data.workers=1", "data.in_memory_mb=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "train", str(write()), *(f"--set={option}" for option in options)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, output = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "stopped by SIGTERM" in output and len(checkpoints(run)) == 1


def test_what_the_caller_ignores_is_no_request_to_stop(
    write: Write, run: Path, send: Callable[..., None]
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        send(signal.SIGHUP)
        finished(write())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_before_the_first_checkpoint_says_that_nothing_is_saved(
    write: Write, run: Path, send: Callable[..., None]
) -> None:
    send(signal.SIGINT, signal.SIGINT, pause=1.1)
    result = train(write())
    assert result.exit_code == 130
    assert "interrupted at once, before the first checkpoint; start again with" in result.output
    (line,) = [line for line in result.output.splitlines() if "start again with" in line]
    assert shlex.split(line)[-2:] == ["--resume", "auto"]


def test_a_run_is_finished_once_its_pipeline_is_written(
    write: Write, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The signal comes before the last measures and the final grid, which may take minutes."""
    install(monkeypatch, tmp_path, "observer", """
import os, signal
from toolkit import hookimpl
@hookimpl
def toolkit_pipeline_saved(folder):
    os.kill(os.getpid(), signal.SIGINT)
""")  # fmt: skip
    whole = train(write())
    assert whole.exit_code == 130 and "stopped by" in whole.output
    assert (run / "pipeline" / "pipeline.json").exists()
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_a_final_grid_that_was_interrupted_is_made_up_for(
    write: Write, runs: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.training.result import Previews

    monkeypatch.setattr(Previews, "_draw", lambda *given: os.kill(os.getpid(), signal.SIGTERM))
    result = train(write())
    assert result.exit_code == 143, result.output
    assert "the trained model and everything else are in" in result.output
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    monkeypatch.undo()
    os.chdir(run.parent.parent)
    for _ in range(2):  # the second time there is nothing left to do
        finished(write(), flags=("--resume", "auto"))
    assert content(run / "samples") == content(runs / "ddpm" / "samples")
    steps = [record["step"] for record in metrics(run) if "denoiser/loss" in record]
    assert steps == [2, 4] and sum("held_out/denoiser/loss" in record for record in metrics(run)) == 1


def losses(run: Path) -> list[dict[str, object]]:
    """All records, without what depends on the machine."""
    clocks = ("seconds", "processor_seconds", "images_per_second")
    return [{name: value for name, value in record.items() if name not in clocks} for record in metrics(run)]


def test_records_are_those_of_an_unbroken_run_wherever_it_was_stopped(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops at step 2, between two records."""
    options = ["run.steps=5", "run.log_every=3", "checkpoints.every=2", "samples.num=0"]
    finished(write(), *options, "run.out=whole")
    install(monkeypatch, tmp_path, "sender", """
import os, signal
from toolkit import hookimpl
@hookimpl
def toolkit_checkpoint_saved(path):
    if path.name == "step-0000002":
        os.kill(os.getpid(), signal.SIGUSR1)
""")  # fmt: skip
    assert train(write(), *options, "run.out=stopped").exit_code == 138
    assert not Path("stopped/metrics.jsonl").exists()
    finished(write(), *options, "run.out=stopped", flags=("--resume",))
    assert [record["step"] for record in losses(Path("whole"))] == [3, 5, 5]
    assert losses(Path("stopped")) == losses(Path("whole"))


def test_an_error_between_two_steps_saves_the_last_one(
    write: Write, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.data.batches import Batches
    from toolkit.errors import DataError

    read, reads = Batches.read, []

    def failing(self: Batches, start: int, count: int) -> object:
        reads.append(start)
        if start >= 24 and len(reads) < 99:  # the second micro-batch of the third step and later ones
            raise DataError("late.png: cannot be read")
        return read(self, start, count)

    monkeypatch.setattr(Batches, "read", failing)
    error = train(write(), "samples.num=0", "run.measure_every=none")
    assert error.exit_code == 2 and "error: late.png: cannot be read" in error.output
    assert "step-0000003" in error.output and "Go on with --resume" in error.output
    assert checkpoints(run) == ["step-0000003"]
    monkeypatch.undo()
    os.chdir(run.parent.parent)
    finished(write(), "samples.num=0", flags=("--resume",))
    assert checkpoints(run) == ["step-0000003", "step-0000004"]


def test_an_error_within_the_first_step_saves_nothing_and_says_how_to_begin_again(
    write: Write, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Trainer) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Trainer, "step", failing)
    result = train(write())
    assert "step 0: There is no checkpoint yet. Start again with --resume auto" in result.output
    assert not (run / "checkpoints").exists()
