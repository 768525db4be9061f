"""`toolkit sample --start`, as a user types it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from surrogate_models import tiny, together

import toolkit
from toolkit.cli import main
from toolkit.pipeline.images import save_samples


def sample(*arguments):
    return CliRunner().invoke(main, ["sample", *map(str, arguments)], catch_exceptions=False)


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A model to refine with, and one to start from: `run` and `other`."""
    monkeypatch.chdir(tmp_path)
    tiny().save_pretrained("run")
    tiny(sampler={"type": "ddim", "num_inference_steps": 4}).save_pretrained("other")


@pytest.mark.parametrize(("arguments", "said"), [
    (("--surrogate", "other", "--t-mid", 5), "5 network calls each, after 4 for its start"),
    (("--t-mid=5", "--surrogate=other"), "5 network calls each, after 4 for its start"),
    (("--surrogate", "other", "--t-mid", 0), "0 network calls each, after 4 for its start"),
    (("--surrogate", "run", "--t-mid", 5, "--handover", "shared"),
     "5 network calls each, after 15 for its start"),
    (("--surrogate", "other", "--t-mid", 5, "--sampler", "ddim", "--steps", 10),
     "3 network calls each, after 4 for its start"),
    (("--data", '{type = "digits"}', "--t-mid", 5), "5 network calls each"),
])  # fmt: skip
def test_the_options_of_the_start_are_flags(arguments, said):
    done = sample("--start", "surrogate", *arguments, "run", "--num", 2, "--out", "grid.png")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == f"2 samples, {said}: grid.png\n"


def test_the_images_are_those_of_python():
    sample(
        "run", "--num", 2, "--start", "surrogate", "--surrogate", "other", "--t-mid", 5, "--out", "grid.png"
    )
    pipeline = toolkit.load("run").with_start("surrogate", surrogate=str(Path("other")), t_mid=5)
    save_samples(together(pipeline, 2), Path("expected.png"))
    assert np.array_equal(pixels("grid.png"), pixels("expected.png"))


def test_what_each_image_starts_from_is_shown_on_its_left():
    arguments = ("--start", "surrogate", "--surrogate", "other", "--t-mid", 5, "--show-start")
    sample("run", "--num", 3, "--batch-size", 2, *arguments, "--out", "images")
    start, image = toolkit.load("other"), toolkit.load("run")
    image = image.with_start("surrogate", surrogate="other", t_mid=5)
    pairs = torch.cat([together(start, 3), together(image, 3)], dim=-1)
    for i, pair in enumerate(pairs):
        drawn, expected = pixels(f"images/{i:06d}.png"), np.asarray(toolkit.to_image(pair))
        assert drawn.shape == (8, 16)
        assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_a_pipeline_can_be_kept_as_it_sampled():
    arguments = ("--start", "surrogate", "--surrogate", "other", "--t-mid", 5, "--steps", 10)
    assert sample("run", "--num", 2, *arguments, "--save", "kept", "--out", "one.png").exit_code == 0
    assert sample("kept", "--num", 2, "--out", "two.png").exit_code == 0
    assert np.array_equal(pixels("one.png"), pixels("two.png"))
    refused = sample("run", "--save", "kept")
    assert (refused.exit_code, refused.stderr[:70]) == (
        2, "error: kept: is already there; give --overwrite to replace it, or anot"
    )  # fmt: skip


def test_a_pipeline_that_has_a_surrogate_keeps_it_unless_told_otherwise():
    arguments = ("--start", "surrogate", "--surrogate", "other", "--t-mid", 5)
    sample("run", "--num", 1, *arguments, "--save", "kept", "--out", "grid.png")
    done = sample("kept", "--num", 1, "--start", "surrogate", "--t-mid", 8, "--out", "8.png")
    assert "8 network calls each, after 4 for its start" in done.stderr
    done = sample("kept", "--num", 1, "--start", "noise", "--out", "noise.png")
    assert done.stderr == "1 samples, 20 network calls each: noise.png\n"


@pytest.mark.parametrize(("arguments", "message"), [
    (("--start", "surogate"), "--start: type 'surogate' is not installed. Did you mean 'surrogate'?"),
    (("--start", "surrogate", "--surrogate", "no", "--t-mid", 5),
     "[start] surrogate: {}/no: no such folder"),
    (("--start", "surrogate", "--t-mid", 5), "[start] needs one of surrogate"),
    (("--start", "surrogate", "--surrogate", "other"), "[start] 'surrogate' needs 't_mid'"),
    (("--start", "surrogate", "--surrogate", "other", "--t-mid", 21), "t_mid must be from 0 to 20"),
    (("--start", "surrogate", "--surrogate", "other", "--t-mid", "many"),
     "[start.t_mid] 't_mid' must be a whole number of at least 0, not \"many\""),
])  # fmt: skip
def test_a_mistake_is_answered_with_one_line(arguments, message):
    done = sample("run", "--num", 1, *arguments)
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert message.format(Path.cwd()) in done.stderr
    assert list(Path().glob("*.png")) == []


def test_a_flag_that_nobody_has_is_answered_with_the_nearest():
    done = sample("run", "--start", "surrogate", "--t-mit", 5)
    assert done.exit_code == 2 and "No such option '--t-mit'." in done.stderr and "'--t-mid'" in done.stderr


def test_without_start_there_are_no_flags_of_one():
    done = sample("run", "--t-mid", 5)
    assert done.exit_code == 2 and "No such option '--t-mid'." in done.stderr
    assert "--t-mid" not in sample("--help").stdout
    assert "--t-mid" in sample("--start", "surrogate", "--help").stdout
