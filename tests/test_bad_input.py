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
from PIL import Image
from small_runs import checkpoints, content, finished, refused, train

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


def test_a_run_of_no_steps(write: Write) -> None:
    assert "'steps' must be a whole number of at least 1" in refused(train(write(), "run.steps=0"))


def test_a_run_without_an_end(write: Write) -> None:
    error = refused(train(write(), "run.steps=none"))
    assert "states no end: set steps, images or minutes" in error


def test_an_unknown_device(write: Write) -> None:
    error = refused(train(write(), "run.device=gpu"))
    assert '\'device\' must be one of "auto", "cpu", not "gpu"' in error


def test_a_folder_of_data_that_is_missing(write: Write) -> None:
    error = refused(train(write(), 'data={type="folder", path="nowhere"}'))
    assert "nowhere is missing: path must be a folder of images" in error


def test_a_folder_of_data_that_is_empty(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty has no images" in refused(train(write(), 'data={type="folder", path="empty"}'))


def test_images_that_cannot_be_read_are_named_and_counted(write: Write, pictures: Path) -> None:
    for name in ("03.png", "07.png"):
        (pictures / name).write_bytes((pictures / name).read_bytes()[:40])
    error = refused(train(write(), f'data={{type="folder", path="{pictures}"}}'))
    assert "2 images cannot be read: " in error and "03.png" in error and "07.png" in error


def test_a_data_set_without_the_image_column(write: Write, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["one", "two"]}).to_parquet(str(tmp_path / "words" / "train.parquet"))
    error = refused(train(write(), 'data={type="datasets", path="words"}'))
    assert "text" in error and "column" in error


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
