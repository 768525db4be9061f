"""A run that is killed at any moment, also while it writes a checkpoint, goes on to the same bits."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parent.parent / "benchmarks" / "kill_and_resume.py"


@pytest.mark.slow
def test_five_runs_that_are_killed_end_with_the_bits_of_an_unbroken_one() -> None:
    """The command of docs/results.md with fewer trials; it forks, which this process may be too busy for."""
    done = subprocess.run(
        [sys.executable, str(COMMAND), "--trials", "5"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(
        r"5 trials, (\d+) kills, (\d+) of them in the middle of a checkpoint: 5 of 5", done.stdout
    )
    assert found is not None, done.stdout
    kills, writing = map(int, found.groups())
    assert kills >= 5 and writing >= 1
