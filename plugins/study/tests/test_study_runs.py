"""Studies that are carried out, small ones, in processes of their own."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

STUDY = """
[study]
title = "Points"
seeds = [0]

[set]
run = {batch_size = 16, log_every = 5, device = "cpu"}
data.length = 200
checkpoints.every = 5

[runs.short]
recipe = "ddpm_25gaussians"
steps = 30

[runs.short.samplers]
"" = {}
"DDIM, 2" = {sampler = {type = "ddim", num_inference_steps = 2}}

[runs.refined]
recipe = "ddpm_25gaussians"
steps = 20
set = {networks.denoiser.init_from = "{short}"}

[images]
num = 200
batch_size = 50

[metrics]
modes25 = {}
sliced_wasserstein = {}

[comparisons.short]
baseline = "short"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "points.toml").write_text(STUDY)
    return tmp_path / "points.toml"


def started(study: Path, *flags: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "toolkit", "study", str(study), *map(str, flags)]
    return subprocess.Popen(command, cwd=study.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def working(folder: Path, since: float) -> bool:
    """Whether a job has been begun since then."""
    return any(path.stat().st_mtime > since for path in (folder / "logs").glob("*.log"))


def results(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return kept


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_tables(study: Path) -> None:
    whole = started(study, "--out", study.parent / "whole", "--jobs", 2)
    assert whole.wait(600) == 0, whole.communicate()[0].decode()
    chance = random.Random(0)
    for _ in range(3):
        begun = time.time()
        broken = started(study, "--out", study.parent / "broken", "--jobs", 2)
        while broken.poll() is None and not working(study.parent / "broken", begun):
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 6))
        broken.kill()
        broken.wait()
    last = started(study, "--out", study.parent / "broken", "--jobs", 2)
    assert last.wait(600) == 0, last.communicate()[0].decode()
    one, other = results(study.parent / "whole"), results(study.parent / "broken")
    assert one["scores"] == other["scores"] and one["comparisons"] == other["comparisons"]
    assert set(one["scores"]) == {"short", "short/DDIM, 2", "refined"}
    assert not other["missing"]
