"""What data is known by: whether it is the same when a run is resumed, and what its user reads of it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.data.batches import Batches, DataOptions
from toolkit.data.identity import changed, identity, remarks, summary
from toolkit.data.source import DataSource
from toolkit.errors import DataError
from toolkit.sources.digits import Digits
from toolkit.sources.folder import ImageFolder

NUMBER = 80  # more than the first few


def paint(file: Path, level: int) -> None:
    """A file of the same size for every level."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), level, dtype=np.uint8)).save(file.with_suffix(".bmp"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(NUMBER):
        paint(tmp_path / "set" / f"{number:03}", number)
    return tmp_path / "set"


def made(source: DataSource, *, memory: bool, skips: bool = False) -> Batches:
    options = DataOptions(in_memory_mb=64 if memory else 0, on_error="skip" if skips else "stop")
    return Batches(source, options, seed=0, device=torch.device("cpu"))


def facts(folder: Path, *, memory: bool, skips: bool = False) -> dict[str, Any]:
    source = ImageFolder(folder)
    return identity(source, made(source, memory=memory, skips=skips), skips=skips)


def enlarge(folder: Path) -> None:
    (folder / "070.bmp").write_bytes((folder / "070.bmp").read_bytes() + b" ")


@pytest.mark.parametrize(("memory", "change", "message"), [
    (True, lambda folder: paint(folder / "070", 255), "an example or a label differs"),
    (True, lambda folder: paint(folder / "007", 255), "its first examples differ"),
    (False, lambda folder: paint(folder / "007", 255), "its first examples differ"),
    (False, enlarge, "its files are others, or of other sizes"),
    (False, lambda folder: (folder / "070.bmp").rename(folder / "071b.bmp"), "its files are others"),
    (True, lambda folder: (folder / "070.bmp").unlink(), "made with examples = 80, not 79"),
    (True, enlarge, None),  # the same pixels
    (True, lambda folder: os.utime(folder / "070.bmp", (0, 0)), None),
    (False, lambda folder: os.utime(folder / "070.bmp", (0, 0)), None),
])  # fmt: skip
def test_data_that_has_changed_is_not_taken_for_the_same(
    folder: Path, memory: bool, change: Callable[[Path], None], message: str | None
):
    before = facts(folder, memory=memory)
    assert changed(before, before) is None
    change(folder)
    difference = changed(before, facts(folder, memory=memory))
    assert difference == message if message is None else message in (difference or "")


def test_files_that_were_written_are_named_where_their_content_is_not_compared(folder: Path):
    before = {memory: facts(folder, memory=memory) for memory in (True, False)}
    paint(folder / "070", 255)
    after = facts(folder, memory=False)
    assert changed(before[False], after) is None  # of the same size
    for then in before.values():
        assert "files of the data were written since" in "".join(remarks(then, after))
    assert not list(remarks(before[True], facts(folder, memory=True)))


def test_data_is_the_same_in_memory_and_read_from_files(folder: Path):
    memory, files = facts(folder, memory=True), facts(folder, memory=False)
    assert changed(memory, files) is None and changed(files, memory) is None
    assert not list(remarks(memory, files))


def test_a_checkpoint_that_does_not_know_all_facts_is_compared_by_those_it_knows(folder: Path):
    old = {name: facts(folder, memory=True)[name] for name in ("examples", "shape", "begins_with")}
    assert changed(old, facts(folder, memory=True)) is None
    assert changed({**old, "examples": 7}, facts(folder, memory=True)) is not None
    assert not list(remarks(old, facts(folder, memory=False)))


@pytest.mark.parametrize("memory", [True, False])
def test_a_set_may_lose_what_is_skipped_and_no_more_than_that_goes_unsaid(folder: Path, memory: bool):
    (folder / "007.bmp").write_bytes(b"")
    before = facts(folder, memory=memory, skips=True)
    assert changed(before, facts(folder, memory=memory, skips=True)) is None
    (folder / "007.bmp").unlink()
    for skips in (True, False):
        after = facts(folder, memory=memory, skips=skips)
        assert changed(before, after) is None
        assert list(remarks(before, after)) == [
            "the data has lost 1 of 80 examples: their order is another from now on"
        ]
    paint(folder / "007", 7)
    paint(folder / "090", 90)
    assert "made with examples = 80, not 81" in (changed(before, facts(folder, memory=memory)) or "")


def lines_about(source: DataSource, *, memory: bool = True, measured: bool = True) -> list[str]:
    return list(summary(source, made(source, memory=memory, skips=True), measured=measured))


def test_a_source_is_summed_up(tmp_path: Path):
    for name, number in (("cat", 2), ("dog", 3)):
        for level in range(number):
            paint(tmp_path / name / str(level), 100 * level)
    (tmp_path / "cat" / "notes.txt").write_text("")
    (tmp_path / "dog" / "9.bmp").write_text("no picture")
    source = ImageFolder(tmp_path, held_out_fraction=0.34)
    first, classes, other, skipped = lines_about(source)
    assert first == "data: 4 examples of 1x4x4, 2 more held out; values 0 to 200"
    assert classes.startswith("data: 2 classes: cat (") and "dog (" in classes
    assert other == "data: 1 file without the suffix of an image left out: .txt 1"
    assert skipped.startswith("data: 1 cannot be read, and others stand in their places: ")


def test_classes_are_counted_without_reading_images_and_the_many_are_cut_short(tmp_path: Path):
    for number in range(NUMBER):
        paint(tmp_path / f"{number % 20:02}" / str(number), number)
    lines = lines_about(ImageFolder(tmp_path), memory=False)
    assert lines[0] == "data: 80 examples of 1x4x4; values 0 to 75 in the first 64"
    assert lines[1].startswith("data: 20 classes: 00 (4), 01 (4)") and lines[1].endswith(" and 10 more")


@pytest.mark.parametrize(("levels", "narrow"), [((0, 24), True), ((100, 120), True), ((0, 25), False)])
def test_values_that_take_less_than_a_tenth_of_their_range_are_pointed_out(
    tmp_path: Path, levels: tuple[int, int], narrow: bool
):
    for level in levels:
        paint(tmp_path / str(level), level)
    lines = lines_about(ImageFolder(tmp_path))
    assert lines[0].startswith("data: 2 examples of 1x4x4 without classes; ")
    assert lines[0].endswith(f"values {levels[0]} to {levels[1]}")
    assert any("less than a tenth" in line for line in lines) == narrow


def test_twelve_bits_in_a_file_of_sixteen_are_pointed_out(tmp_path: Path):
    Image.fromarray(np.linspace(0, 4095, 16, dtype=np.uint16).reshape(4, 4)).save(tmp_path / "a.png")
    assert any("12 bits in a file of 16" in line for line in lines_about(ImageFolder(tmp_path)))


class Broken(DataSource):
    """Digits whose held-out labels are others, or cannot be had."""

    def __init__(self, held_out: Callable[[], DataSource]) -> None:
        self.digits, self.image_shape, self.num_classes = Digits(split="test"), (1, 8, 8), 10
        self.make = held_out

    def __len__(self) -> int:
        return len(self.digits)

    def read(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.digits.read(indices)

    def held_out(self) -> DataSource:
        return self.make()


def beyond() -> DataSource:
    digits = Digits(split="test")
    digits.labels = digits.labels + 1
    return digits


def test_held_out_labels_beyond_the_classes_are_refused_if_they_are_used():
    source = Broken(beyond)
    with pytest.raises(DataError, match="labels run from 1 to 10, but the data has 10 classes"):
        lines_about(source)
    assert "none held out (labels run from 1 to 10" in lines_about(source, measured=False)[0]


def test_other_data_than_pictures_has_a_range_too():
    class Points(DataSource):
        image_shape, num_classes = (2,), None

        def __len__(self) -> int:
            return 3

        def read(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            return torch.stack([indices / 7, -indices / 3], dim=1), None

    assert lines_about(Points()) == ["data: 3 examples of 2 without classes; values -0.6667 to 0.2857"]
