"""Runs over several processes: resumed exactly, and the same as over one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import TINY_DDPM, X0_DDGAN
from torch import Tensor

from toolkit.devices.processes import Processes
from toolkit.errors import RunError

ACCELERATE = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--main_process_port",
    "0",
    "--num_processes",
    "2",
]
DRIVER = Path(__file__).with_name("process_runs.py")
# What learns from the losses of all processes: timesteps, and which draws are worth a gradient.
LEARNING = TINY_DDPM.replace("num_train_timesteps = 20", "num_train_timesteps = 6").replace(
    'type = "denoising"',
    """type = "iwdiff"
k = 3
scale = "sum"
selective = true
[objective.timesteps]
type = "second_moment"
history = 2
extra = 2""",
)
# A memory order that loading must not lose: kernels round otherwise in another one.
IN_CHANNELS_LAST = TINY_DDPM.replace('type = "unet"', 'type = "unet"\nchannels_last = true')
EXACT = pytest.mark.parametrize("method", ["ddpm", "ddgan"])
pytestmark = pytest.mark.slow


def launch(command: list[str], **more: str) -> "subprocess.CompletedProcess[str]":
    # One thread, as launchers set it: sums of floats may differ between numbers of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What process_runs.py leaves at 1, 2 and 3 processes: 8 or 12 rows in micro-batches of 4."""
    folder = tmp_path_factory.mktemp("runs")
    for name, text in {"ddpm": IN_CHANNELS_LAST, "ddgan": X0_DDGAN, "learning": LEARNING}.items():
        (folder / f"{name}.toml").write_text(text)
    result = launch([sys.executable, str(DRIVER), str(folder)])
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def files(run: Path) -> dict[str, bytes]:
    """Every file of the run's last checkpoint: weights, EMA, optimizers, objective, step."""
    checkpoint = run / "checkpoints" / "step-0000006"
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in paths}


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    assert one and one.keys() == other.keys()
    return [name for name in one if one[name] != other[name]]


@pytest.mark.parametrize("method", ["ddpm", "ddgan", "learning"])
@pytest.mark.parametrize("count", ["one", "two", "three"])
def test_a_resumed_run_is_bit_identical_to_an_unbroken_one(runs: Path, method: str, count: str) -> None:
    whole, resumed = (files(runs / count / method / name) for name in ("whole", "resumed"))
    assert differing(whole, resumed) == []


def test_two_processes_agree_on_a_deliberate_change(runs: Path) -> None:
    (line,) = (runs / "two" / "ddpm" / "resumed" / "changes.jsonl").read_text().splitlines()
    change = {"step": 6, "key": "run.micro_batch_size", "was": 4, "is": 2}
    assert json.loads(line) == change


@EXACT
def test_two_processes_give_the_bits_of_one_with_two_micro_batches(runs: Path, method: str) -> None:
    one, two = (files(runs / count / method / "whole") for count in ("one", "two"))
    assert differing(one, two) == []


def test_two_processes_learn_what_one_learns(runs: Path) -> None:
    """Not to the bit: here a micro-batch's gradient has several parts, and sums of floats have an order."""

    def state(count: str, name: str) -> dict[str, Tensor]:
        checkpoint = runs / count / "learning" / "whole" / "checkpoints" / "step-0000006"
        return load_file(checkpoint / f"{name}.safetensors")

    for name in ("objective", "networks/denoiser", "ema/denoiser"):
        one, two = state("one", name), state("two", name)
        assert one.keys() == two.keys()
        assert [key for key in one if not one[key].allclose(two[key], atol=1e-5)] == []
    # All of it was at work: a full history, and 3 draws of which fewer than 2 count.
    assert state("two", "objective")["timesteps.probabilities"].std() > 0.01
    assert state("two", "objective")["active"] < 2


@EXACT
def test_a_run_goes_on_with_the_same_bits_when_two_processes_become_one(runs: Path, method: str) -> None:
    assert differing(files(runs / "half" / method), files(runs / "one" / method / "whole")) == []


@EXACT
@pytest.mark.parametrize("grid", ["step-0000006.png", "step-0000006-ema.png"])
def test_grids_are_the_same_whoever_draws_the_images(runs: Path, method: str, grid: str) -> None:
    one, three = ((runs / count / method / "whole" / "samples" / grid) for count in ("one", "two"))
    assert one.read_bytes() == three.read_bytes()


def test_accelerate_launch_trains_on_two_processes(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train = [
        "-m",
        "toolkit",
        "train",
        str(runs / "ddpm.toml"),
        "--set",
        f"run.out={out}",
        "--set",
        "run.steps=6",
    ]
    result = launch(
        [*ACCELERATE, "--multi_gpu", *train, "--set", "samples.num=3"], ACCELERATE_USE_CPU="false"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert differing(files(out), files(runs / "one" / "ddpm" / "whole")) == []


def test_a_launch_that_starts_one_process_for_two_is_explained(runs: Path) -> None:
    result = launch([*ACCELERATE, "--cpu", "-m", "toolkit", "train", str(runs / "ddpm.toml")])
    assert "starts one process whatever --num_processes says" in result.stderr
    assert "torchrun --nproc_per_node 2 -m toolkit train" in result.stderr
    assert "toolkit/train.py" not in result.stderr  # no traceback of ours


@pytest.mark.parametrize("flag", ["fsdp", "deepspeed"])
def test_a_launch_with_the_launchers_own_sharding_names_the_option(
    monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{flag.upper()}", "true")
    with pytest.raises(RunError, match=f'launched with --use_{flag}: .* set run.sharding = "fsdp"'):
        Processes()


def test_a_launcher_whose_processes_do_not_see_each_other_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two trainers, each alone and main, would write one run folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        RunError, match="states 2 processes .* how they find each other: MASTER_ADDR and RANK"
    ):
        Processes()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "MASTER_PORT"])
def test_a_launcher_that_states_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(RunError, match=f"the environment variable {name} is 'x', and must be a whole number"):
        Processes()


def test_a_process_whose_others_never_come_says_so_in_time() -> None:
    source = """
from datetime import timedelta
from toolkit.errors import RunError
from toolkit.devices import processes
processes.MEET = timedelta(seconds=1)
try:
    processes.Processes()
except RunError as error:
    print(error)
"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    alone = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    result = launch([sys.executable, "-c", source], **alone, MASTER_PORT=port)
    assert f"have not all met at localhost:{port} within 1 s: one has ended" in result.stdout, result.stderr


@pytest.fixture(scope="module")
def answers(runs: Path) -> dict[str, dict[str, Any]]:
    """What process_checks.py says at one process and at two."""
    return {name: json.loads((runs / "answers" / f"{name}.json").read_text()) for name in ("one", "two")}


def test_networks_and_averages_start_alike_however_they_were_initialised(answers: dict[str, Any]) -> None:
    """It seeds each process differently, and `must_agree` finds nothing until one weight is moved."""
    assert "state of 'g' differs between processes" in answers["two"]["drift"]
    assert answers["one"]["drift"] == ""


def test_records_of_all_processes_come_in_the_order_of_the_global_batch(answers: dict[str, Any]) -> None:
    assert len(answers["two"]["records"]) == 8
    assert answers["two"]["records"] == answers["one"]["records"]


def test_buffers_that_forward_changes_are_the_same_for_any_number_of_processes(
    answers: dict[str, Any],
) -> None:
    """BatchNorm's statistics and counter, spectral normalisation's vectors; so are recorded losses."""
    assert answers["two"]["buffers"] == answers["one"]["buffers"]
    assert answers["one"]["buffers"]["1.num_batches_tracked"] == 1
    assert answers["two"]["loss"] == answers["one"]["loss"]


def test_measures_are_the_same_for_any_number_of_processes(answers: dict[str, Any]) -> None:
    assert answers["two"]["measures"] == pytest.approx(answers["one"]["measures"], rel=1e-6)


@pytest.mark.parametrize("what", ["refusal", "bug", "trial"])
def test_a_failure_on_one_process_ends_all(answers: dict[str, Any], what: str) -> None:
    """A refusal, a division by zero, and the trial of a micro-batch where there is no data."""
    assert answers["two"][what] == "another process has given up, and says why"
    assert answers["one"][what] == ""
