"""Studies that are carried out, small ones, in processes of their own."""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from toolkit.cli import main
from toolkit.commands import ScoreFile
from toolkit.recipe.packaged import packaged
from toolkit_study.plan import read_study

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


def carried_out(study: Path, out: str) -> None:
    """Carry the study out in this process, which is quick and gives the same tables."""
    done = CliRunner().invoke(main, ["study", str(study), "--out", str(study.parent / out), "--jobs", "0"])
    assert done.exit_code == 0, done.output


def started(study: Path, out: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "toolkit", "study", str(study), "--out", out, "--jobs", "2"]
    return subprocess.Popen(command, cwd=study.parent, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def working(folder: Path, since: float) -> bool:
    """Whether a job has been begun since then."""
    return any(path.stat().st_mtime > since for path in (folder / "logs").glob("*.log"))


def results(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return kept


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_tables(study: Path) -> None:
    carried_out(study, "whole")
    chance = random.Random(0)
    for _ in range(5):
        begun = time.time()
        broken = started(study, "broken")
        while broken.poll() is None and not working(study.parent / "broken", begun):
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 6))
        broken.kill()
        broken.wait()
    carried_out(study, "broken")
    one, other = results(study.parent / "whole"), results(study.parent / "broken")
    assert one["scores"] == other["scores"] and one["comparisons"] == other["comparisons"]
    assert set(one["scores"]) == {"short", "short/DDIM, 2", "refined"}
    assert not other["missing"]


@pytest.fixture
def studied(tmp_path: Path) -> Callable[..., Result]:
    """Carry a packaged study out at its tiny scale, on 8x8 digits or on pictures of noise."""
    pictures = np.random.default_rng(0).integers(256, size=(24, 32, 32, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{number}.png")
    stacked = tmp_path / "stacked.toml"  # where its data lies is said run by run
    stacked.write_text("""
extends = ["stacked_mnist"]
runs.classifier.set.data.type = "digits"
runs.dcgan.set.data.source.type = "digits"
runs.ddgan.set.data.source.type = "digits"
""")
    digits = ["--set", "data.type=digits"]
    here = {
        "stacked_mnist": [str(stacked)],
        "ddgan_ablation_25gaussians": ["ddgan_ablation_25gaussians"],
        "gan_vs_diffusion_cifar": ["gan_vs_diffusion_cifar", "--set", "data.type=folder",
                                   "--set", f"data.path={tmp_path / 'pictures'}"],
    }  # fmt: skip

    def study(name: str, *flags: str) -> Result:
        asked = [
            *here.get(name, [name, *digits]),
            "--scale",
            "tiny",
            "--jobs",
            "0",
            "--out",
            str(tmp_path / "out"),
        ]
        return CliRunner().invoke(main, ["study", *asked, *flags])

    return study


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in packaged("study")])
def test_every_packaged_study_runs_at_its_tiny_scale(
    name: str, studied: Callable[..., Result], tmp_path: Path
) -> None:
    done = studied(name)
    assert done.exit_code == 0, done.output
    planned, found = read_study(name, "tiny"), results(tmp_path / "out")
    assert not found["missing"] and set(found["scores"]) == {row.key for row in planned.rows}
    for by_seed in found["scores"].values():
        assert set(by_seed) == {str(seed) for seed in planned.seeds}
        assert all(len(scores) >= len(planned.protocol["metrics"]) for scores in by_seed.values())
    assert set(found["comparisons"]) == set(planned.comparisons)
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(f"| {row.title} " in report for row in planned.rows)
    pictures = re.findall(r"\((\w+\.png)\)", report)
    assert "seeds.png" in pictures and all((tmp_path / "out" / name).is_file() for name in pictures)


@pytest.mark.slow
def test_a_part_of_a_study_says_what_is_missing_and_goes_on_where_it_was(
    studied: Callable[..., Result], tmp_path: Path
) -> None:
    part = ("trilemma_mnist", "--only", "flow,dcgan")
    done = studied(*part)
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "out")
    assert set(found["scores"]) == {"flow/20 steps", "flow/4 steps", "dcgan"} and found["missing"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("| DCGAN ") == 3  # scores, cost, by seed; the baseline is not run
    again = studied(*part)
    assert again.exit_code == 0 and "are done already" in again.output
    refused = studied(*part, "--set", "run.batch_size=3")
    assert refused.exit_code == 2 and "run.batch_size" in refused.output and "another --out" in refused.output


def test_a_row_that_is_sampled_otherwise_is_scored_again_and_has_the_new_scores_alone(study: Path) -> None:
    out = study.parent / "out"

    def kept() -> list[ScoreFile]:
        carried_out(study, "out")
        result = json.loads((out / "results" / "short_DDIM_2-0.json").read_text())
        assert len(list((out / result["samples"]).glob("samples-*"))) == 1, "and its own samples alone"
        return [ScoreFile.model_validate(score) for score in result["scores"]]

    first = kept()
    otherwise = STUDY.replace("num_inference_steps = 2", "num_inference_steps = 3")
    study.write_text(otherwise)
    again = kept()
    assert [score.metric for score in again] == [score.metric for score in first]
    assert {(score.sampling or {})["sampler"]["num_inference_steps"] for score in again} == {3}
    study.write_text(otherwise.replace("sliced_wasserstein = {}\n", ""))
    assert [score.metric for score in kept()] == ["modes25"]


def test_a_failure_is_told_and_what_needs_it_is_left_out(study: Path) -> None:
    (study.parent / "out" / "short-0").mkdir(parents=True)
    (study.parent / "out" / "short-0" / "stranger.txt").touch()  # no run may be begun there
    done = CliRunner().invoke(main, ["study", str(study), "--jobs", "0", "--out", str(study.parent / "out")])
    assert done.exit_code == 2
    assert "short-0: " in done.output and "stranger.txt" in done.output
    left_out = done.output.split("left out because of that: ")[1].strip()
    assert left_out == "refined-0, short-0-scores, short_DDIM_2-0-scores, refined-0-scores"


def test_time_that_is_up_leaves_the_rest_and_says_how_to_go_on(study: Path) -> None:
    out = study.parent / "out"
    done = CliRunner().invoke(main, ["study", str(study), "--jobs", "0", "--minutes", "0", "--out", str(out)])
    assert done.exit_code == 0 and "time is up; 5 jobs are left. Go on with" in done.output
    assert len(results(out)["missing"]) == 3
