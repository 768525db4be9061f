"""What a user can get wrong when training: one clear line or a short block, exit code 2, no traceback.

Mistakes in recipes have tests of their own (test_recipe.py, test_cli_recipes.py), other run folders too.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from small_runs import checkpoints, content, finished, refused, train

from toolkit.cli import main

Write = Callable[..., Path]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        pixels = np.full((8, 8), 20 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def test_a_missing_recipe(tmp_path: Path) -> None:
    assert "nowhere.toml" in refused(train("nowhere.toml"))


def test_a_syntax_error_is_told_with_file_and_line(write: Write) -> None:
    assert "tiny.toml:3" in refused(train(write("[run]\nbatch_size = 8\nsteps == 4\n")))


def test_a_batch_that_micro_batches_do_not_divide(write: Write) -> None:
    error = refused(train(write(), "run.batch_size=9"))
    assert "batch_size 9 is not a multiple of micro_batch_size 4" in error


def test_a_micro_batch_to_be_found_for_networks_in_parts(write: Write) -> None:
    """Refused with the options, before there is a run folder."""
    error = refused(train(write(), "run.micro_batch_size=auto", "run.sharding=fsdp", "run.out=out"))
    assert 'micro_batch_size = "auto" does not go with sharding' in error
    assert not Path("out").exists()


def test_a_run_of_no_steps(write: Write) -> None:
    assert "'steps' must be a whole number of at least 1" in refused(train(write(), "run.steps=0"))


def test_a_run_without_an_end(write: Write) -> None:
    error = refused(train(write(), "run.steps=none"))
    assert "states no end: set steps, images or minutes" in error


def test_an_unknown_device(write: Write) -> None:
    error = refused(train(write(), "run.device=gpu"))
    assert '\'device\' must be one of "auto", "cpu", not "gpu"' in error


def test_a_folder_of_data_that_is_missing(write: Write) -> None:
    write()
    own = write('extends = ["tiny.toml"]\n\n[data]\ntype = "folder"\npath = "nowhere"\n', "own.toml")
    place = f"own.toml:5: [data] path: {Path('nowhere').absolute()}"
    assert f"{place} does not exist: it must be a folder of images" in refused(train(own))
    assert not Path("runs/tiny").exists()  # nothing has begun


def test_a_folder_of_data_that_is_empty(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty has no images" in refused(train(write(), 'data={type="folder", path="empty"}'))


def test_images_that_cannot_be_read_are_named_and_counted(write: Write, pictures: Path) -> None:
    for name in ("03.png", "07.png"):
        (pictures / name).write_bytes((pictures / name).read_bytes()[:40])
    error = refused(train(write(), f'data={{type="folder", path="{pictures}"}}'))
    assert "2 images cannot be read: " in error and "03.png" in error and "07.png" in error


STREAMED = ("data.in_memory_mb=0", "run.steps=4")


@pytest.fixture
def late(pictures: Path) -> Path:
    """More pictures than are looked at in the beginning; the header of the one that is cut off is whole."""
    for number in range(12, 90):
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(pictures / f"{number:02d}.png")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).convert("L").save(pictures / "80.jpg", quality=95)
    (pictures / "80.jpg").write_bytes((pictures / "80.jpg").read_bytes()[:-20])
    return pictures


def test_an_image_that_cannot_be_read_is_skipped_where_that_is_asked_for(write: Write, late: Path) -> None:
    data = f'data={{type="folder", path="{late}", on_error="skip"}}'
    result = finished(write(), data, *STREAMED, "run.batch_size=96", "run.micro_batch_size=none")
    assert result.output.count("80.jpg (image file is truncated") == 1, result.output
    (late / "80.jpg").unlink()
    more = ("run.steps=5", "run.batch_size=96", "run.micro_batch_size=none", "data.in_memory_mb=0")
    again = finished(write(), data, *more, flags=("--resume",))
    assert "the data has lost 1 of 91 examples: their order is another from now on" in again.output


def test_an_image_that_is_skipped_in_measuring_is_named_too(write: Write, late: Path) -> None:
    data = f'data={{type="folder", path="{late}", on_error="skip", held_out_fraction=0.9}}'
    output = finished(write(), data, "run.steps=2", "samples.num=0").output
    assert "another example stands in its place" in output and output.count("80.jpg (image file is tr") == 1


@pytest.mark.slow
def test_a_run_that_an_image_ended_goes_on_without_it(write: Write, late: Path) -> None:
    data = f'data={{type="folder", path="{late}"}}'
    sizes = ("run.batch_size=8", "checkpoints.every=1", "data.in_memory_mb=0", "run.steps=12")
    error = refused(train(write(), data, *sizes))
    assert "80.jpg (image file is truncated" in error and 'data.on_error = "skip"' in error
    assert "80.jpg" in finished(write(), data, *sizes, "data.on_error=skip", flags=("--resume",)).output


@pytest.mark.parametrize(("megabytes", "message"), [(64, "an example or a label"), (0, "of other sizes")])
def test_data_that_changed_beyond_its_first_examples_is_not_gone_on_with(
    write: Write, late: Path, megabytes: int, message: str
) -> None:
    (late / "80.jpg").unlink()
    data = f'data={{type="folder", path="{late}", in_memory_mb={megabytes}}}'
    finished(write(), data)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(late / "85.png")
    error = refused(train(write(), data, "run.steps=5", flags=("--resume",)))
    assert "the data has changed since: " in error and message in error


def test_what_was_found_and_left_out_is_said_by_train_and_check(write: Write, tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/1.png", "dog/2.png", "dog/notes.txt"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "set" / name, "PNG")
    recipe, data = write(), 'data={type="folder", path="set"}'
    checked = CliRunner().invoke(main, ["recipe", "check", str(recipe), "--set", data])
    for output in (checked.output, finished(recipe, data).output):
        assert "data: 3 examples of 1x8x8; values " in output
        assert "data: 2 classes: cat (1), dog (2)" in output
        assert "data: 1 file without the suffix of an image left out: .txt 1" in output


@pytest.mark.parametrize("command", [("train",), ("recipe", "check")])
def test_held_out_labels_beyond_the_classes_end_it_before_training(
    write: Write, tmp_path: Path, command: tuple[str, ...]
) -> None:
    from datasets import Dataset

    for split, last in (("train", 1), ("test", 7)):
        pictures = [Image.new("L", (8, 8), 40 * number) for number in range(4)]
        rows = Dataset.from_dict({"image": pictures, "kind": [0, 1, 0, last]})
        rows.to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    data = 'data={type="datasets", path="set", label_column="kind"}'
    error = refused(CliRunner().invoke(main, [*command, str(write()), "--set", data]))
    assert "split 'test': labels run from 0 to 7, but the data has 2 classes" in error
    assert not (tmp_path / "runs" / "tiny" / "metrics.jsonl").exists()


def test_a_data_set_without_the_image_column(write: Write, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["one", "two"]}).to_parquet(str(tmp_path / "words" / "train.parquet"))
    error = refused(train(write(), 'data={type="datasets", path="words"}'))
    assert "text" in error and "column" in error


@pytest.mark.parametrize(("wrong", "text"), [
    ('path="nobody/nothing/here"', "does not exist: it must be a folder or a hub id"),
    ('config="fancy"', "'fancy'"),
    ('split="tran"', "has no split 'tran', but train."),
    ('held_out_split="train[:1]"', "cannot be both trained on and held out"),
    ('image_column="txt"', "has no image column 'txt'"),
    ('label_column="txt"', "has no column 'txt' of classes"),
])  # fmt: skip
def test_an_option_of_a_data_set_that_fits_nothing_is_blamed(
    write: Write, tmp_path: Path, pictures: Path, wrong: str, text: str
) -> None:
    from datasets import Dataset, Image

    examples = Dataset.from_dict({"image": [str(pictures / "01.png")] * 2, "txt": [["a"], ["b"]]})
    examples.cast_column("image", Image()).to_parquet(str(tmp_path / "set" / "train.parquet"))
    flags = ['data.type="datasets"', "data.path=set", f"data.{wrong}"]
    error = refused(train(write(), *flags))
    assert f"--set data.{wrong}: [data] {wrong.partition('=')[0]}: " in error and text in error


def test_resuming_what_is_not_there(write: Write, tmp_path: Path) -> None:
    assert "runs/tiny: there is no run to resume" in refused(train(write(), flags=("--resume",)))
    assert not (tmp_path / "runs").exists()


def test_resuming_and_overwriting_at_once(write: Write) -> None:
    result = train(write(), flags=("--resume", "--overwrite"))
    assert result.exit_code == 2 and "give one of them" in result.output


def test_init_from_nowhere(write: Write) -> None:
    error = refused(train(write(), "networks.denoiser.init_from=nowhere"))
    assert "[networks.denoiser] init_from: " in error and "nowhere" in error


def test_a_run_folder_that_is_a_file(write: Write) -> None:
    Path("out").write_text("mine")
    assert "out: is a file, not a folder for a run" in refused(train(write(), "run.out=out"))
    assert Path("out").read_text() == "mine"


def test_a_run_folder_below_a_file(write: Write) -> None:
    Path("out").write_text("mine")
    assert "out/run: Not a directory" in refused(train(write(), "run.out=out/run"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_run_folder_that_may_not_be_written(write: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    assert "cannot write" in refused(train(write(), "run.out=out/run"))


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(write: Write) -> None:
    """In a process of its own: the limit would hit whatever else this one writes to, such as a log."""
    recipe = write()
    finished(recipe, "run.steps=2", "run.out=run")
    before = content(Path("run/checkpoints"))
    result = subprocess.run(
        [sys.executable, "-m", "toolkit", "train", str(recipe), "--set", "run.out=run", "--resume"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "run/checkpoints/step-0000004/networks/denoiser.safetensors: File too large" in result.stderr
    assert content(Path("run/checkpoints")) == before and checkpoints(Path("run")) == ["step-0000002"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many KiB, where this may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(kib: int) -> Path:
        command = ("mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk))
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this may not mount anything")
        return disk

    try:
        yield mount
    finally:
        subprocess.run(("umount", str(disk)), capture_output=True)


def test_a_disk_that_is_too_small_is_found_before_the_first_step(
    write: Write, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(64)
    error = refused(train(write(), f"run.out={disk}/run"))
    assert "no space, " in error and " MiB needed and " in error
    assert not (disk / "run" / "metrics.jsonl").exists()


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    write: Write, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(500)
    error = refused(train(write(), f"run.out={disk}/run", "checkpoints.every=1", "samples.num=0"))
    assert "No space left on device" in error
    assert checkpoints(disk / "run") == ["step-0000001"]
