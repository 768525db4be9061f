"""Digits, and folders of images."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from toolkit.data.batches import Batches, DataOptions
from toolkit.data.source import DataSource, UnreadableImages
from toolkit.errors import DataError
from toolkit.sources.digits import Digits
from toolkit.sources.folder import ImageFolder
from toolkit.sources.pictures import Fit


def paint(path: Path, level: int = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode == "L" else (level,) * 3).save(path)


def levels(source: DataSource) -> list[int]:
    return source.read(torch.arange(len(source)))[0][:, 0, 0, 0].tolist()


def test_digits_are_scaled_to_bytes_and_back_without_loss():
    from sklearn.datasets import load_digits

    source = Digits(split="all")
    images, labels = source.read(torch.arange(len(source)))
    assert images.shape == (1797, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 255)
    restored = (images.double() * 16 / 255).round().flatten(1)
    original = torch.from_numpy(load_digits().data)
    assert restored.sum(0).equal(original.sum(0))  # "all" is in another order
    assert labels is not None
    assert labels.bincount().equal(torch.from_numpy(np.bincount(load_digits().target)))


def test_digits_kept_for_measuring_are_never_trained_on():
    train = Digits()
    test = train.held_out()
    assert test is not None
    assert (len(train), len(test)) == (1437, 360)
    assert torch.cat([train.labels, test.labels]).equal(Digits(split="all").labels.roll(-360))
    assert test.labels.bincount().min() > 20
    assert test.held_out() is None
    assert Digits(split="all").held_out() is None


def test_digits_come_in_any_size():
    source = Digits(size=16, fit="pad")
    assert source.image_shape == (1, 16, 16)
    held_out = source.held_out()
    assert held_out is not None
    assert held_out.image_shape == (1, 16, 16)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path):
    for name, level in [("b/x.PNG", 3), ("a.png", 1), ("b/a/y.jpg", 2)]:
        paint(tmp_path / name, level)
    source = ImageFolder(tmp_path)
    assert levels(source) == [1, 2, 3]
    assert (source.image_shape, source.num_classes) == ((1, 8, 8), None)
    assert source.read(torch.tensor([2, 0]))[1] is None


def test_sub_folders_are_classes_when_all_images_lie_in_them(tmp_path: Path):
    for name in ["dog/1.png", "cat/1.png", "cat/more/2.png"]:
        paint(tmp_path / name)
    source = ImageFolder(tmp_path)
    labels = source.read(torch.arange(3))[1]
    assert source.num_classes == 2
    assert labels is not None
    assert labels.tolist() == [0, 0, 1]


def test_one_sub_folder_is_no_classification(tmp_path: Path):
    paint(tmp_path / "img_align_celeba" / "1.png")
    assert ImageFolder(tmp_path).num_classes is None


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path):
    paint(tmp_path / "a.png", 7)
    (tmp_path / "._a.png").write_text("left by macOS")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "thumbnail.png").write_text("")
    (tmp_path / "notes.txt").write_text("")
    assert levels(ImageFolder(tmp_path)) == [7]


def test_a_fraction_of_a_folder_is_kept_and_always_the_same(tmp_path: Path):
    for number in range(20):
        paint(tmp_path / f"{number:02}.png", number)
    train = ImageFolder(tmp_path, held_out_fraction=0.25)
    test = train.held_out()
    assert test is not None
    assert len(test) == 5
    assert sorted(levels(train) + levels(test)) == list(range(20))
    assert levels(ImageFolder(tmp_path, held_out_fraction=0.25)) == levels(train)
    assert test.held_out() is None
    assert ImageFolder(tmp_path).held_out() is None


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere does not exist: it must be a folder of images"):
        ImageFolder(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path):
    paint(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.png is a file: it must be a folder of images"):
        ImageFolder(tmp_path / "a.png")


def test_an_empty_folder_is_named(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"has no images: .* holds a file in .*\.png.* left out: \.txt 1"):
        ImageFolder(tmp_path)


def test_splits_are_not_taken_for_classes(tmp_path: Path):
    paint(tmp_path / "train" / "1.png")
    paint(tmp_path / "test" / "1.png")
    with pytest.raises(DataError, match="sub-folders test and train, which are splits and not classes"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("megabytes", [64, 0])
def test_unreadable_images_are_named_and_counted_before_training(tmp_path: Path, megabytes: int):
    for number in range(10):
        paint(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_text("no picture")
    (tmp_path / "0.png").write_bytes(b"")
    source = ImageFolder(tmp_path)
    with pytest.raises(
        DataError, match=r"^2 images cannot be read: \S*/0\.png \(empty\), \S*/3\.png \(not a pic"
    ):
        Batches(source, DataOptions(in_memory_mb=megabytes), seed=0, device=torch.device("cpu"))


def test_truncated_images_are_found_when_the_set_is_decoded(tmp_path: Path):
    paint(tmp_path / "a.png")
    Image.effect_noise((64, 64), 100).resize((8, 8)).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^1 image cannot be read: \S*/b\.png"):
        Batches(ImageFolder(tmp_path), DataOptions(), seed=0, device=torch.device("cpu"))


def test_a_folder_of_nothing_readable_names_the_first_few_and_counts_the_rest(tmp_path: Path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_text("no picture")
    with pytest.raises(DataError, match=r"^8 images cannot be read: .*4\.png \(.*\) and 3 more\."):
        ImageFolder(tmp_path)


def test_a_large_sets_sizes_are_checked_before_training(tmp_path: Path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png", size=(9, 8))
    with pytest.raises(DataError, match=r"b\.png has 9x8 pixels, but the first image 8x8: set size"):
        Batches(ImageFolder(tmp_path), DataOptions(in_memory_mb=0), seed=0, device=torch.device("cpu"))


def link_a_class(folder: Path) -> None:
    paint(folder.parent / "elsewhere" / "1.png")
    (folder / "dog").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(("add", "note"), [
    (link_a_class, "1 linked folder left out, links are not followed: dog"),
    (lambda folder: paint(folder / "a.tga"), "1 file without the suffix of an image left out: .tga 1"),
    (lambda folder: paint(folder / "cat" / ".a.png"), "1 hidden file or folder left out"),
    (lambda folder: (folder / "emu").mkdir(), "1 sub-folder without images, no class: emu"),
    (lambda folder: paint(folder / "a.png"), "no classes, because of 1 image beside the sub-folders (a.png)"),
    (lambda folder: paint(folder / "cat" / "a.gif"), None),
])  # fmt: skip
def test_what_is_left_out_is_said(tmp_path: Path, add: Callable[[Path], None], note: str | None):
    for name in ("bird", "cat"):
        paint(tmp_path / "set" / name / "1.png")
    add(tmp_path / "set")
    assert ImageFolder(tmp_path / "set").notes() == ([] if note is None else [note])


def test_frames_and_bands_that_are_not_used_are_said(tmp_path: Path):
    frames = [Image.new("L", (8, 8), level) for level in (0, 100, 200)]
    for name in ("a.gif", "b.png", "c.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    paint(tmp_path / "d.png")
    source = ImageFolder(tmp_path)
    source.check(torch.arange(4))
    source.read(torch.arange(4))
    [note] = source.notes()
    assert note.startswith("several frames, only the first is used: ")
    assert [Path(name).name for name in note.partition(": ")[2].split(", ")] == ["a.gif", "b.png", "c.tif"]


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path):
    paint(tmp_path / "a.png")
    (tmp_path / "closed").mkdir(mode=0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("this user may look into every folder")
    with pytest.raises(DataError, match="closed: cannot be looked into: Permission denied"):
        ImageFolder(tmp_path)


def write_huge(file: Path) -> None:
    Image.new("1", (14000, 14000)).save(file)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(("make", "reason"), [
    (lambda file: file.symlink_to("/nowhere/x.png"), "No such file or directory"),
    (os.mkfifo, "it is not a regular file"),
    (write_huge, "exceeds limit of"),
    (lambda file: file.write_bytes(b""), "empty"),
    (lambda file: file.write_bytes(EPS), "not a picture in AVIF, BMP,"),
    (lambda file: file.write_text("<html>404</html>"), "not a picture in AVIF, BMP,"),
], ids=["link", "pipe", "huge", "empty", "eps", "html"])  # fmt: skip
def test_the_reason_why_a_file_cannot_be_read_is_given(
    tmp_path: Path, make: Callable[[Path], None], reason: str
):
    paint(tmp_path / "a.png")
    make(tmp_path / "b.png")
    source = ImageFolder(tmp_path, size=8)
    for act in (source.check, source.read):
        with pytest.raises(UnreadableImages, match=r"b\.png \(.*" + reason):
            act(torch.arange(2))


def test_a_folder_named_like_a_picture_is_a_folder(tmp_path: Path):
    paint(tmp_path / "a.png", 1)
    paint(tmp_path / "b.png" / "c.png", 2)
    assert levels(ImageFolder(tmp_path)) == [1, 2]


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jpe", ".pnm", ".TIFF"])
def test_pictures_have_many_suffixes(tmp_path: Path, suffix: str):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow cannot read AVIF")
    form = {".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM"}.get(suffix)
    Image.new("RGB", (8, 8), (40,) * 3).save(tmp_path / f"a{suffix}", form)
    assert levels(ImageFolder(tmp_path)) == [pytest.approx(40, abs=2)]


@pytest.mark.parametrize("fit", ["crop", "resize", "pad"])
def test_height_and_width_may_differ(tmp_path: Path, fit: Fit):
    paint(tmp_path / "a.png", size=(20, 30))
    assert ImageFolder(tmp_path, size=(4, 16), fit=fit).read(torch.arange(1))[0].shape == (1, 1, 4, 16)
    assert Digits(size=(4, 16), fit=fit).read(torch.arange(1))[0].shape == (1, 1, 4, 16)


def test_sizes_and_times_of_files_are_known_without_reading_them(tmp_path: Path):
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    before = ImageFolder(tmp_path).fingerprint()
    os.utime(tmp_path / "b.png", (0, 0))
    touched = ImageFolder(tmp_path).fingerprint()
    assert touched["sizes"] == before["sizes"] and touched["times"] != before["times"]
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes() + b" ")
    assert ImageFolder(tmp_path).fingerprint()["sizes"] != before["sizes"]
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert ImageFolder(tmp_path).fingerprint()["sizes"] != touched["sizes"]


def test_labels_are_known_without_reading_and_follow_what_is_held_out(tmp_path: Path):
    for number in range(12):
        paint(tmp_path / f"{number % 3}" / f"{number}.png", number)
    train = ImageFolder(tmp_path, held_out_fraction=0.3)
    for source in (train, train.held_out()):
        assert source is not None
        labels, read = source.all_labels(), source.read(torch.arange(len(source)))[1]
        assert labels is not None and read is not None and labels.equal(read)
