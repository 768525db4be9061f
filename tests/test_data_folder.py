"""Digits, and folders of images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.data.batches import Batches, DataOptions
from toolkit.data.source import DataSource
from toolkit.errors import DataError
from toolkit.sources.digits import Digits
from toolkit.sources.folder import ImageFolder


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
    with pytest.raises(DataError, match="nowhere is missing: path must be a folder of images"):
        ImageFolder(tmp_path / "nowhere")


def test_a_file_is_no_folder(tmp_path: Path):
    paint(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.png is a file: path must be a folder of images"):
        ImageFolder(tmp_path / "a.png")


def test_an_empty_folder_is_named(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"has no images: neither it nor a sub-folder holds a file in \.bmp"):
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
    with pytest.raises(DataError, match=r"^2 images cannot be read: \S*/0\.png, \S*/3\.png\. Repair"):
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
    with pytest.raises(DataError, match=r"^8 images cannot be read: .*4\.png and 3 more\."):
        ImageFolder(tmp_path)


def test_a_large_sets_sizes_are_checked_before_training(tmp_path: Path):
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png", size=(9, 8))
    with pytest.raises(DataError, match=r"b\.png has 9x8 pixels, but the first image 8x8: set size"):
        Batches(ImageFolder(tmp_path), DataOptions(in_memory_mb=0), seed=0, device=torch.device("cpu"))
