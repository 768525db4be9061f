"""Averages of several widths: their profile, their snapshots in the run folder, and resuming with them."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import content, finished, refused, resumed, train
from torch import nn

import toolkit
from toolkit import CheckpointError, gamma_of_width
from toolkit.commands import RunError, read_snapshots
from toolkit.training.ema import EMA, PowerFunction

Write = Callable[..., Path]
WIDTHS = ("ema.denoiser.widths=[0.05,0.1]", "ema.denoiser.snapshot_every=1")
FOLDER = "snapshots/denoiser"


@pytest.mark.parametrize("gamma", [1e-3, 0.5, 1, 2, 6.94, 16.97, 1e3])
def test_the_power_of_a_width_solves_the_papers_equation(gamma: float) -> None:
    width = math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))
    assert gamma_of_width(width) == pytest.approx(gamma, rel=1e-9, abs=1e-12)


def test_the_papers_two_widths_have_its_powers() -> None:
    assert [round(gamma_of_width(width), 2) for width in (0.05, 0.1)] == [16.97, 6.94]


@pytest.mark.parametrize("width", [0.05, 0.25])
def test_a_power_average_weights_steps_by_the_differences_of_their_powers(width: float) -> None:
    """The share of step tau among t is (tau / t)^(gamma + 1) - ((tau - 1) / t)^(gamma + 1)."""
    network, values = nn.Linear(1, 1, bias=False).double(), [3.0, -1.0, 4.0, 1.0]
    ema = EMA(network, PowerFunction(width))
    for value in values:
        nn.init.constant_(network.weight, value)
        ema.update(network)
    powers = [(tau / 4) ** (gamma_of_width(width) + 1) for tau in range(5)]
    expected = sum(v * (after - before) for v, before, after in zip(values, powers, powers[1:], strict=False))
    assert float(ema.network.weight) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]
    assert ema.initial_share() == 0


def test_a_run_keeps_snapshots_and_samples_the_average_with_a_decay(write: Write) -> None:
    output = finished(write(), "run.out=run", *WIDTHS, "ema.denoiser.snapshot_every=3").output
    assert "snapshots of 'denoiser': 2 averages, 0." in output and "every 3 steps: 2 more, " in output
    found = read_snapshots(Path("run"))
    assert [(s.step, s.updates) for s in found] == [(3, 3), (3, 3), (4, 4), (4, 4)]
    assert [s.width for s in found] == [0.05, 0.1, 0.05, 0.1]
    finished(write(), "run.out=plain")
    assert toolkit.load("run").identity == toolkit.load("plain").identity
    assert any(not torch.equal(found[2].read()[name], tensor) for name, tensor in found[3].read().items())


def test_without_a_decay_the_first_width_is_sampled(write: Write) -> None:
    finished(write(), "run.out=run", *WIDTHS, "ema.denoiser.decay=none")
    average = read_snapshots(Path("run"))[-2]
    assert average.width == 0.05
    saved = toolkit.load("run").denoiser.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in average.read().items())
    assert json.loads(Path("run/pipeline/pipeline.json").read_text())["weights"] == "ema"
    names = sorted(path.name for path in Path("run/checkpoints/step-0000004/ema").iterdir())
    assert names == ["denoiser-0.1.safetensors", "denoiser.safetensors"]


def test_a_run_killed_while_it_wrote_a_snapshot_ends_as_one_that_was_not(write: Write) -> None:
    """Killed after step 3, whose snapshot was half-written, and resumed from the checkpoint of step 2."""
    every = ("checkpoints.every=2", "checkpoints.keep_last=9", *WIDTHS)
    finished(write(), "run.out=run", *every)
    whole = content(Path("run/snapshots")) | content(Path("run/checkpoints"))
    shutil.rmtree("run/checkpoints/step-0000004")
    Path("run", FOLDER, "step-0000003").rename(Path("run", FOLDER, ".writing-step-0000003-0123abcd"))
    Path("run", FOLDER, "step-0000004", "0.1.safetensors").write_bytes(b"of another attempt")
    state = Path("run/run.json")
    state.write_text(json.dumps({**json.loads(state.read_text()), "status": "running"}))
    resumed("tiny.toml", "run.out=run", *every)
    assert content(Path("run/snapshots")) | content(Path("run/checkpoints")) == whole


@pytest.mark.slow
def test_snapshots_may_become_rarer_on_resuming_but_widths_stay(write: Write) -> None:
    finished(write(), "run.out=run", "run.steps=2", *WIDTHS)
    wider = (WIDTHS[1], "ema.denoiser.widths=[0.05,0.2]")
    other = train("tiny.toml", "run.out=run", *wider, flags=("--resume",))
    assert "ema.denoiser.widths was [0.05, 0.1] and is [0.05, 0.2]" in refused(other)
    resumed("tiny.toml", "run.out=run", *WIDTHS, "ema.denoiser.snapshot_every=4")
    assert sorted({snapshot.step for snapshot in read_snapshots(Path("run"))}) == [1, 2, 4]


def test_a_damaged_snapshot_is_named(write: Write) -> None:
    finished(write(), "run.out=run", "run.steps=1", *WIDTHS)
    file = Path("run", FOLDER, "step-0000001", "0.05.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match="0.05.safetensors: was altered"):
        read_snapshots(Path("run"))[0].read()
    described = file.with_name("snapshot.json")
    described.write_text(described.read_text().replace('"0.1"', '"../0.1"'))
    with pytest.raises(RunError, match="snapshot.json: is not the description of a snapshot: widths"):
        read_snapshots(Path("run"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("ema.denoiser.decay=none",), "states no average: set decay, widths or both"),
        (WIDTHS[:1], "widths and snapshot_every are set together"),
        (WIDTHS[1:], "widths and snapshot_every are set together"),
        (("ema.denoiser.decay=none", "ema.denoiser.ramp=true", *WIDTHS), "ramp and start are of the average"),
        (("ema.denoiser.widths=[0.1,0.1]", WIDTHS[1]), "twice"),
        (("ema.denoiser.widths=[0.05,0.3]", WIDTHS[1]), "'widths' must be"),
        (("ema.denoiser.widths=[0]", WIDTHS[1]), "'widths' must be"),
    ],
)
def test_averages_that_cannot_be_are_refused(write: Write, settings: tuple[str, ...], message: str) -> None:
    assert message in refused(train(write(), *settings))
