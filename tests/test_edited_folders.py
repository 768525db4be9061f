"""Edited run folders: every command gives its result or one line, in time, and touches nothing outside."""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from edited_folders import edit
from small_runs import content

from toolkit.cli import main

COMMANDS = [
    ["runs", "."], ["compare", "run"], ["sample", "run", "--num", "1", "--out", "grid.png", "--overwrite"],
    ["sample", "run/pipeline", "--num", "1", "--out", "grid.png", "--overwrite", "--save", "saved"],
    ["evaluate", "run", "--metrics", "sliced_wasserstein", "--num", "2", "--set", "images.real=2"],
    ["train", "run/recipe.toml", "--resume", "--set", "run.out=run", "--set", "run.steps=5"],
]  # fmt: skip
SCORE = {"metric": "fid", "time": 1.0, "values": {"fid": 1.0, "fid_std": 0.1}, "curves": {}, "notes": [],
         "better": {"fid": "lower"}, "fingerprint": "ab", "protocol": {"real": {"num": 2}},
         "model": {"steps": 4, "weights": "ema", "identity": "x"}}  # fmt: skip
SECONDS = 60


@contextmanager
def in_time() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise AssertionError(f"not answered in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seed", [
    *range(12), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 200)),
])  # fmt: skip
def test_an_edited_folder_is_read_or_refused_and_nothing_outside_is_touched(
    runs: Path, tmp_path: Path, seed: int
) -> None:
    run = Path(shutil.copytree(runs / "ddpm", tmp_path / "run"))
    (run / "scores").mkdir()
    (run / "scores" / "fid.json").write_text(json.dumps(SCORE))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("years of work")
    done = edit(run, outside, seed)
    before = content(outside)
    for command in COMMANDS:
        with in_time():
            result = CliRunner().invoke(main, command)
        assert result.exit_code in (0, 2), (done, command, result.output, result.exception)
        assert all(char.isprintable() or char in "\n\t" for char in result.output), (done, command)
        assert len(result.output) < 20_000, (done, command)
    assert content(outside) == before
    ours = {"run", "outside", "grid.png", "saved", "grid.npy"}
    assert {path.name for path in tmp_path.iterdir()} <= ours, done
