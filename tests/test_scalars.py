"""Scalars of an objective that are a number or follow a schedule (`float | ScalarSchedule`)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import finished, metrics, refused, train
from tiny import TINY_DDGAN

from toolkit import at_step, read_recipe
from toolkit.training.objective import CosineScalar, LinearScalar, ScalarSchedule

Write = Callable[..., Path]
FALLING = 'objective.r1_gamma={type="linear", start=2.0, end=0.0, steps=2}'


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5]),
        (LinearScalar(2.0, 1.0, 2), [2.0, 1.5, 1.0, 1.0]),
        (CosineScalar(2.0, 0.0, 4), [2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5]),
    ],
)
def test_a_scalar_is_a_function_of_the_step_and_stays_at_its_end(
    scalar: float | ScalarSchedule, expected: list[float]
) -> None:
    assert [at_step(scalar, step) for step in range(4)] == pytest.approx(expected)


def test_a_number_stays_a_number_in_the_complete_recipe(write: Write) -> None:
    assert read_recipe(write(TINY_DDGAN)).tables["objective"]["r1_gamma"] == 0.1
    assert read_recipe(write(TINY_DDGAN), [FALLING]).tables["objective"]["r1_gamma"] == {
        "type": "linear", "start": 2.0, "end": 0.0, "steps": 2,
    }  # fmt: skip


def test_a_schedule_is_as_long_as_its_run_unless_it_says_otherwise(write: Write) -> None:
    falling = FALLING.replace(", steps=2", "")
    finished(
        write(TINY_DDGAN), "run.out=run", "run.log_every=1", "run.steps=3", "objective.r1_every=1", falling
    )
    rows = [row for row in metrics(Path("run")) if "discriminator/r1" in row]
    assert [row["discriminator/r1"] > 0 for row in rows] == [True, True, True]  # 2, 4/3 and 2/3
    error = refused(train(write(TINY_DDGAN), falling, "run.steps=none", "run.minutes=1"))
    assert "set run.steps" in error and "objective.r1_gamma" in error


def test_the_penalty_of_a_run_follows_its_schedule(write: Write) -> None:
    """At weight 0, from step 2 on, R1 is not taken."""
    finished(write(TINY_DDGAN), "run.out=run", "run.log_every=1", "objective.r1_every=1", FALLING)
    rows = [row for row in metrics(Path("run")) if "discriminator/loss" in row]
    assert ["discriminator/r1" in row for row in rows] == [True, True, False, False]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("-1", "must be a number of at least 0, or a table with a type (ScalarSchedule), not -1"),
        ("high", 'must be a number of at least 0, or a table with a type (ScalarSchedule), not "high"'),
        ('{type="linar", start=1, end=0, steps=2}', "Did you mean 'linear'?"),
        ('{type="linear", start=1}', "'linear' needs 'end'"),
        ('{type="linear", start=1, end=-1, steps=2}', "'end' must be a number of at least 0"),
    ],
)
def test_what_is_neither_is_refused(write: Write, value: str, message: str) -> None:
    assert message in refused(train(write(TINY_DDGAN), f"objective.r1_gamma={value}"))
