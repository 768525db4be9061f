"""Edited run folders: every command gives its result or one line, in time, and touches nothing outside."""

from pathlib import Path

import pytest
from edited_folders import trial


@pytest.mark.parametrize("seed", range(8))  # benchmarks/edited_folders.py tries 200
def test_an_edited_folder_is_read_or_refused_and_nothing_outside_is_touched(runs: Path, seed: int) -> None:
    assert trial(runs / "ddpm", seed, 60)[1] == []
