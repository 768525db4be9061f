"""Studies that are carried out, small ones, in processes of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

STUDY = """
[study]
title = "Points"
seeds = [0, 1]

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


def results(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return kept


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_tables(study: Path) -> None:
    whole = started(study, "--out", study.parent / "whole", "--jobs", 2)
    assert whole.wait(600) == 0, whole.communicate()[0].decode()
    chance, kills = random.Random(0), 0
    while kills < 3:
        broken = started(study, "--out", study.parent / "broken", "--jobs", 2)
        time.sleep(chance.uniform(3, 9))
        if broken.poll() is None:
            broken.send_signal(signal.SIGKILL)
        broken.wait()
        kills += 1
    last = started(study, "--out", study.parent / "broken", "--jobs", 2)
    assert last.wait(600) == 0, last.communicate()[0].decode()
    one, other = results(study.parent / "whole"), results(study.parent / "broken")
    assert one["scores"] == other["scores"] and one["comparisons"] == other["comparisons"]
    assert set(one["scores"]) == {"short", "short/DDIM, 2", "refined"}
    assert not other["missing"]
    assert os.listdir(study.parent / "broken" / "results")
