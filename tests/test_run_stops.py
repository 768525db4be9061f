"""How a run stops before its end: signals, a kill, and losses that are not finite."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import PLUGIN, checkpoints, finished, install, refused, train

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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_run_with_a_checkpoint(
    write: Write, run: Path, send: Callable[..., None], number: signal.Signals, code: int
) -> None:
    send(number)
    result = train(write())
    assert result.exit_code == code
    assert f"stopped by {number.name} at step 2" in result.output
    assert checkpoints(run) == ["step-0000002"]
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"


def test_the_message_is_a_command_that_goes_on_to_the_end(
    write: Write, tmp_path: Path, send: Callable[..., None]
) -> None:
    send(signal.SIGTERM)
    out = tmp_path / "a folder" / "[run]"
    result = train(write(name="my tiny.toml"), f"run.out={out}", "samples.num=3")
    (line,) = [line for line in result.output.splitlines() if line.startswith("go on with")]
    words = shlex.split(line.removeprefix("go on with"))
    assert words[:2] == ["toolkit", "train"] and words[-1] == "--resume"
    finished(words[2], flags=tuple(words[3:]))
    assert checkpoints(out)[-1] == "step-0000004"
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    assert "num = 3" in (out / "recipe.toml").read_text()


def test_the_same_signal_twice_at_once_is_one(write: Write, run: Path, send: Callable[..., None]) -> None:
    send(signal.SIGINT, signal.SIGINT)  # as under torchrun, which passes on what the terminal sent already
    assert train(write()).exit_code == 130
    assert checkpoints(run) == ["step-0000002"]


def test_a_second_interrupt_stops_at_once(write: Write, run: Path, send: Callable[..., None]) -> None:
    send(signal.SIGINT, signal.SIGINT, pause=1.1)
    result = train(write(), "checkpoints.every=1")
    assert result.exit_code == 130
    assert "interrupted at once; go on from the last checkpoint with   toolkit train" in result.output
    assert checkpoints(run) == ["step-0000001"]
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"


def test_signals_are_the_callers_again_after_a_run(write: Write) -> None:
    before = signal.getsignal(signal.SIGTERM)
    finished(write())
    assert signal.getsignal(signal.SIGTERM) is before


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


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_stops_a_run_whose_data_is_read_by_workers(
    write: Write, run: Path
) -> None:
    """Launchers, Slurm and systemd signal groups; a worker that died of it would take the run down."""
    options = ["run.steps=100000", "run.log_every=1", "data.workers=1", "data.in_memory_mb=0"]
    stated = [word for option in options for word in ("--set", option)]
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "train", str(write()), *stated],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM" in said and len(checkpoints(run)) == 1
