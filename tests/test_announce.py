"""What a run says before it starts, and of its end once it knows how long a step takes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import finished, metrics
from tiny import TINY_DDGAN, TINY_DDPM

from toolkit.training import announce
from toolkit.training.announce import Forecast, clock, span
from toolkit.training.trainer import RunOptions

Write = Callable[..., Path]


def test_a_run_says_what_it_is_before_it_starts(write: Write) -> None:
    said = finished(write(TINY_DDPM), "run.out=mine", "run.micro_batch_size=4", "run.minutes=9").output
    run, network, data = said.splitlines()[:3]
    assert run.startswith(
        "run: 4 steps or 9 minutes without the final grid, whichever comes first, of 8 examples"
    )
    assert run.endswith("in micro-batches of 4 (0.022 epochs), on cpu in float32; mine")
    assert network.startswith("network 'denoiser': UNet, ") and network.endswith(" parameters")
    assert data.startswith("data: 1,437 examples of 1x8x8")
    assert "sampling the final grid: 4 samples by " in said


@pytest.mark.parametrize(("steps", "told"), [("2", True), ('"run"', False), ("4", False), ("9", False)])
def test_a_run_that_outlives_its_learning_rate_is_told_so(write: Write, steps: str, told: bool) -> None:
    lengths = f"optimizers.denoiser.lr_schedule.steps={steps}"
    said = finished(write(TINY_DDGAN), "run.out=run", lengths).output
    assert ("'denoiser' is at its end, 1e-05, after 2 steps and for 2 more" in said) == told


def test_the_learning_rate_is_recorded(write: Write) -> None:
    """A cosine over 4 steps: of the steps 0 to 3, each second one's rate."""
    finished(write(TINY_DDGAN), "run.out=run", "optimizers.denoiser.lr_schedule={floor=0, steps='run'}")
    rates = [row["denoiser/lr"] for row in metrics(Path("run")) if "denoiser/lr" in row]
    assert rates == pytest.approx([1e-3 * (2 + 2**0.5) / 4, 1e-3 * (2 - 2**0.5) / 4])


def told(monkeypatch: pytest.MonkeyPatch, seconds: float, grid: int = 0, **options: object) -> list[str]:
    """What is said while 100 steps of so many seconds are taken, of a run that began at 0."""
    now = [0.0]
    monkeypatch.setattr(announce.time, "monotonic", lambda: now[0])
    forecast = Forecast(0, RunOptions(batch_size=10, **options), grid, began=0.0)  # type: ignore[arg-type]
    said: list[str] = []
    for number in range(1, 101):
        now[0] += seconds
        said += forecast.after(number)
    return said


def test_it_tells_once_how_long_a_step_takes_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = told(monkeypatch, 2.0, steps=7200)
    assert said.startswith("about 2 s a step: ends with step 7,200 in 4 h, ")  # less the 4 that are taken
    (said,) = told(monkeypatch, 0.1, steps=7200)
    assert said.startswith("about 0.1 s a step: ends with step 7,200 in 12 min, ")


def test_it_ends_by_whichever_limit_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = told(monkeypatch, 1.0, steps=7200, minutes=10)
    assert said.startswith("about 1 s a step: ends with run.minutes, at about step 600 of 7,200 in 9.9 min")
    (said,) = told(monkeypatch, 1.0, steps=200, minutes=10)
    assert said.startswith("about 1 s a step: ends with step 200 in ")
    (said,) = told(monkeypatch, 1.0, minutes=10)
    assert "run.minutes, at about step 600 in" in said


def test_a_grid_that_takes_long_beside_the_training_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is three forward passes of 10: 3,000 calls for single images take as long as 100 steps."""
    ends, grid = told(monkeypatch, 1.0, grid=3000, steps=200)
    assert grid.startswith("the grid at the end may take another 1.7 min: samples.num_inference_steps")
    assert len(told(monkeypatch, 1.0, grid=3000, steps=2000)) == 1  # a twentieth


def test_nothing_is_said_of_a_run_that_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, 0.01, steps=200) == []


@pytest.mark.parametrize(("seconds", "text"), [
    (0.083, "0.083 s"), (42.0, "42 s"), (150.0, "2.5 min"), (11_160.0, "3.1 h"), (9_000_000.0, "104 days"),
])  # fmt: skip
def test_time_is_told_as_people_do(seconds: float, text: str) -> None:
    assert span(seconds) == text
    assert clock(9_000_000).startswith("on 2")
