"""`toolkit sample`, as a user types it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from test_pipeline import make, make_conditional

import toolkit
from toolkit.cli import main
from toolkit.pipeline.images import save_samples


def sample(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sample", *map(str, arguments)], catch_exceptions=False)


def refusal(*arguments: object) -> str:
    """The line that a mistake is answered with."""
    done = sample(*arguments)
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("error: ")


@pytest.fixture
def run(runs: Path) -> Path:
    return runs / "ddpm"


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    make_conditional().save_pretrained(tmp_path / "classes")
    return tmp_path / "classes"


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_grid_shows_every_pixel_enlarged_and_a_gutter_between_images(run: Path) -> None:
    assert sample(run, "--num", 5, "--seed", 7, "--out", "grid.png").exit_code == 0
    sheet = pixels("grid.png")
    assert sheet.shape == (2 * (64 + 8) + 8, 3 * (64 + 8) + 8)  # 3 columns, 8x8 digits 8 times as large
    (samples,) = toolkit.load(run).sample(5, seed=7)
    expected = np.full_like(sheet, 64)
    for i, image in enumerate(samples):
        top, left = 8 + i // 3 * 72, 8 + i % 3 * 72
        small = np.asarray(toolkit.to_image(image))
        expected[top : top + 64, left : left + 64] = small.repeat(8, axis=0).repeat(8, axis=1)
    assert np.array_equal(sheet, expected)


def test_a_folder_holds_each_image_at_its_own_size(run: Path) -> None:
    assert sample(run, "--num", 3, "--seed", 7, "--out", "images").exit_code == 0
    assert sorted(path.name for path in Path("images").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    (samples,) = toolkit.load(run).sample(3, seed=7)
    for i, image in enumerate(samples):
        assert np.array_equal(pixels(f"images/{i:06d}.png"), np.asarray(toolkit.to_image(image)))


def test_colour_stays_colour() -> None:
    make((3, 8, 8)).save_pretrained("colour")
    sample("colour", "--num", 1, "--steps", 2, "--out", "grid.png")
    assert Image.open("grid.png").mode == "RGB"


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_every_channel_is_kept(channels: int, mode: str) -> None:
    make((channels, 8, 8)).save_pretrained("model")
    sample("model", "--num", 2, "--steps", 2, "--out", "grid.png")
    sample("model", "--num", 2, "--steps", 2, "--out", "images")
    (samples,) = toolkit.load("model").with_sampler(num_inference_steps=2).sample(2)
    assert Image.open("grid.png").mode == Image.open("images/000001.png").mode == mode
    expected = toolkit.to_uint8(samples).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels("images/000001.png"), expected[1])
    assert np.array_equal(pixels("grid.png")[8 : 8 + 64 : 8, 8 : 8 + 64 : 8], expected[0])


def test_channels_that_no_png_can_hold_are_written_as_an_array() -> None:
    make((5, 8, 8)).save_pretrained("model")
    assert sample("model", "--num", 3, "--steps", 2, "--out", "grid.png").exit_code == 0
    assert sample("model", "--num", 3, "--steps", 2, "--out", "images").exit_code == 0
    assert np.load("grid.npy").shape == np.load("images/samples.npy").shape == (3, 5, 8, 8)
    Path("other.npy").write_text("mine")
    assert "other.npy: is already there" in refusal("model", "--out", "other.png")


def test_a_launcher_of_several_processes_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "started 2 processes (WORLD_SIZE), and this command works in one" in refusal(run, "--num", 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert sample(run, "--num", 1, "--steps", 2).exit_code == 0


def test_another_number_of_steps_than_the_model_was_saved_with_is_said(run: Path) -> None:
    toolkit.load(run).with_sampler(num_inference_steps=2).save_pretrained("student")
    assert "note" not in sample("student", "--num", 1, "--out", "a.png").stderr
    assert "note" not in sample("student", "--num", 1, "--steps", 2, "--out", "b.png").stderr
    said = sample("student", "--num", 1, "--steps", 4, "--out", "c.png").stderr
    assert said.splitlines()[0] == "note --steps 4: this model is saved with 2"


def test_a_log_gets_lines_of_progress_in_place_of_a_bar(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (run, "--num", 4, "--batch-size", 2, "--steps", 2)
    assert "%" not in sample(*asked, "--out", "a.png").stderr  # done within a minute
    monkeypatch.setattr("toolkit.console.EVERY", 0)
    said = sample(*asked, "--out", "b.png").stderr
    assert re.findall(r"^sampling: (\d+)%$", said, re.MULTILINE) == ["25", "50", "75", "100"]


def test_a_member_of_a_table_is_set_and_the_others_stay(run: Path) -> None:
    options = {"set_alpha_to_one": False, "clip_sample": False}
    pipeline = toolkit.load(run).with_sampler(
        "diffusers", scheduler="DDIMScheduler", num_inference_steps=3, options=options
    )
    pipeline.save_pretrained("model")
    done = sample("model", "--num", 1, "--set", "sampler.options.clip_sample=true", "--save", "other")
    assert done.exit_code == 0
    assert toolkit.load("other").saved.sampler["options"] == {**options, "clip_sample": True}
    wrong = refusal("model", "--num", 1, "--set", "sampler.options.clip_sample=7", "--overwrite")
    assert "options.clip_sample must be true or false, not 7" in wrong


@pytest.mark.parametrize("flag", ["sampler.eta.x=1", "sampler.options.a.b=true", "start.type.x=[1]"])
def test_a_value_in_an_error_is_shown_as_it_was_written(run: Path, flag: str) -> None:
    value = refusal(run, "--num", 1, "--sampler", "ddim", "--set", flag)
    assert "FlagValue" not in value and "Traceback" not in value


def test_images_do_not_depend_on_the_batch_size_but_for_rounding(run: Path) -> None:
    for size in (1, 64):
        sample(run, "--num", 3, "--batch-size", size, "--out", f"images{size}")
    for i in range(3):
        apart = pixels(f"images1/{i:06d}.png").astype(int) - pixels(f"images64/{i:06d}.png")
        assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(("arguments", "calls"), [
    ((), 20),
    (("--steps", 5), 5),
    (("--steps", "5,2"), 7),
    (("--steps", 7, "--spacing", "ddim"), 7),
    (("--sampler", "ddim"), 20),
    (("--sampler", "ddim", "--steps", 4), 4),
    (("--sampler", "DPMSolverMultistepScheduler", "--steps", 5), 5),
    (("--sampler", "HeunDiscreteScheduler", "--steps", 5), 9),
])  # fmt: skip
def test_it_says_how_many_network_calls_an_image_took(
    run: Path, arguments: tuple[str, ...], calls: int
) -> None:
    done = sample(run, "--num", 2, "--out", "grid.png", *arguments)
    assert done.exit_code == 0
    assert done.stderr == f"2 samples, {calls} network calls each: grid.png\n"


def test_a_sampler_and_its_steps_make_the_images(run: Path) -> None:
    sample(run, "--num", 2, "--sampler", "ddim", "--steps", 4, "--out", "grid.png")
    pipeline = toolkit.load(run).with_sampler("ddim", num_inference_steps=4)
    save_samples(torch.cat(list(pipeline.sample(2))), Path("expected.png"))
    assert np.array_equal(pixels("grid.png"), pixels("expected.png"))


def test_sections_of_the_chain_make_the_images_that_they_make_in_python(run: Path) -> None:
    sample(run, "--num", 2, "--steps", "5,2", "--spacing", "strided", "--out", "grid.png")
    pipeline = toolkit.load(run).with_sampler(num_inference_steps=[5, 2], spacing="strided")
    assert pipeline.times == (19, 10, 9, 7, 4, 2, 0, -1)
    save_samples(torch.cat(list(pipeline.sample(2))), Path("expected.png"))
    assert np.array_equal(pixels("grid.png"), pixels("expected.png"))


def test_a_label_makes_all_images_of_that_class(classes: Path) -> None:
    sample(classes, "--num", 2, "--steps", 2, "--label", 3, "--out", "images")
    (samples,) = toolkit.load(classes).with_sampler(num_inference_steps=2).sample(2, labels=[3, 3])
    assert np.array_equal(pixels("images/000000.png"), np.asarray(toolkit.to_image(samples[0])))


@pytest.mark.parametrize(("label", "number"), [
    ("cat", 0),
    ("10", 1),  # a folder's name, whatever its place in the alphabet
    ("5", 5),
    ("New York, NY", 2),
    ("cat,10", [0, 1]),
])  # fmt: skip
def test_a_label_may_be_the_name_that_the_data_has_for_a_class(
    tmp_path: Path, label: str, number: int | list[int]
) -> None:
    pipeline = make_conditional()
    names = ["cat", "10", "New York, NY", *(f"class {i}" for i in range(3, 10))]
    pipeline.saved = pipeline.saved.model_copy(update={"class_names": names})
    pipeline.save_pretrained(tmp_path / "named")
    sample(tmp_path / "named", "--num", 2, "--steps", 2, "--label", label, "--out", "images")
    (samples,) = toolkit.load(tmp_path / "named").with_sampler(num_inference_steps=2).sample(2, labels=number)
    for i in range(2):
        assert np.array_equal(pixels(f"images/{i:06d}.png"), np.asarray(toolkit.to_image(samples[i])))


def test_an_existing_grid_is_replaced_only_on_request(run: Path) -> None:
    Path("grid.png").write_text("mine")
    assert refusal(run, "--out", "grid.png").startswith("grid.png: is already there; give --overwrite")
    assert Path("grid.png").read_text() == "mine"
    assert sample(run, "--num", 1, "--steps", 2, "--out", "grid.png", "--overwrite").exit_code == 0
    assert pixels("grid.png").shape == (80, 80)


def test_an_existing_folder_is_replaced_only_on_request_and_then_keeps_no_older_images(run: Path) -> None:
    sample(run, "--num", 3, "--steps", 2, "--out", "images")
    Path("images/notes.txt").write_text("mine")
    assert "images: is already there" in refusal(run, "--out", "images")
    sample(run, "--num", 1, "--steps", 2, "--out", "images", "--overwrite")
    assert sorted(path.name for path in Path("images").iterdir()) == ["000000.png", "notes.txt"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("--sampler", "ddmi"), "[sampler.type] type 'ddmi' is not installed. Did you mean 'ddim'?"),
    (("--sampler", "DDIMSchedular"), "[sampler.type] type 'DDIMSchedular' is not installed."),
    (("--sampler", "DDIMSchScheduler", "--steps", 3), "Did you mean 'DDIMScheduler'?"),
    (("--sampler", "DDIMScheduler"), "--sampler DDIMScheduler needs --steps"),
    (("--steps", 21), "num_inference_steps must be from 1 to 20"),
    (("--steps", "3,11"), "from 1 to 10, the length of section 2 of 2, not 11"),
    (("--steps", 6, "--spacing", "ddim"), "the nearest numbers that have one are 5 and 7"),
    (("--spacing", "stridden"), "not 'stridden'"),
    (("--label", 3), "--label 3: labels are for a conditional model, which this is not"),
    (("--device", "quantum"), "--device quantum: "),
    (("--out", "grid.jpg"), "--out grid.jpg: a grid is written as .png"),
])  # fmt: skip
def test_a_mistake_is_answered_with_one_line(run: Path, arguments: tuple[object, ...], message: str) -> None:
    assert message in refusal(run, "--num", 1, *arguments)
    assert list(Path().glob("*.png")) == []


def test_a_label_that_is_no_class_is_answered_with_the_classes(classes: Path) -> None:
    assert (
        refusal(classes, "--label", 10)
        == "--label 10: there is no class 10: labels must be of the classes 0..9"
    )


@pytest.mark.parametrize("option", ["--num", "--steps", "--batch-size", "--seed"])
def test_a_number_out_of_range_is_answered_with_the_range(run: Path, option: str) -> None:
    done = sample(run, option, -1)
    assert done.exit_code == 2 and f"Invalid value for '{option}'" in done.stderr


@pytest.mark.parametrize("steps", ["5,", "ddim5", "5,0"])
def test_steps_are_whole_numbers_from_one(run: Path, steps: str) -> None:
    done = sample(run, "--steps", steps)
    assert done.exit_code == 2 and "Invalid value for '--steps'" in done.stderr


def test_a_folder_that_is_not_there_is_named() -> None:
    assert refusal("nowhere") == "nowhere: no such folder"


def test_another_number_of_steps_is_refused_for_a_network_that_knows_only_its_own(runs: Path) -> None:
    assert "was trained for the 4 steps of its schedule" in refusal(runs / "ddgan", "--steps", 2)


def test_points_are_written_as_an_array_beside_the_name() -> None:
    save_samples(torch.ones(3, 2), Path("points.png"))
    assert np.array_equal(np.load("points.npy"), np.ones((3, 2)))


def test_existing_points_are_replaced_only_on_request() -> None:
    recipe = "ddpm_25gaussians"
    trained = CliRunner().invoke(main, ["train", recipe, "--set=run.steps=1", "--set=run.out=points"])
    assert trained.exit_code == 0, trained.output
    Path("samples.npy").write_text("mine")
    assert "samples.npy: is already there; give --overwrite" in refusal("points", "--num", 2)
    assert Path("samples.npy").read_text() == "mine"
    assert sample("points", "--num", 2, "--overwrite").exit_code == 0
    assert np.load("samples.npy").shape == (2, 2)


def test_samples_that_no_memory_can_hold_are_an_error(run: Path, tmp_path: Path) -> None:
    saved = Path(shutil.copytree(run / "pipeline", tmp_path / "vast"))
    description = json.loads((saved / "pipeline.json").read_text())
    (saved / "pipeline.json").write_text(json.dumps({**description, "sample_shape": [1, 2**20, 2**20]}))
    assert "samples of shape (1, 1048576, 1048576) at once need more memory" in refusal(saved, "--num", 1)


def test_the_folder_in_which_one_stands_gets_the_images_and_stays(run: Path, tmp_path: Path) -> None:
    Path("mine.txt").touch()
    before = tmp_path.stat().st_ino
    assert sample(run, "--num", 2, "--out", ".", "--overwrite").exit_code == 0
    assert sample(run, "--num", 1, "--out", tmp_path, "--overwrite").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"000000.png", "mine.txt"}
    assert tmp_path.stat().st_ino == before


def test_a_device_that_draws_no_numbers_is_refused(run: Path) -> None:
    assert refusal(run, "--num", 1, "--device", "meta").startswith("--device meta: ")
