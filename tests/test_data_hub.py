"""Data sets in the layout of Hugging Face datasets."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Value
from PIL import Image

from toolkit.data.batches import Batches, DataOptions
from toolkit.errors import DataError
from toolkit.sources.hub import HubDataset

REAL = Path(__file__).parent.parent.parent / "shared" / "data"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_hub_and_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(level: int, size: tuple[int, int] = (6, 5), mode: str = "L") -> dict[str, Any]:
    file = BytesIO()
    Image.new(mode, size, level if mode == "L" else (level,) * 3).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(folder: Path, split: str, columns: dict[str, list[Any]], kinds: dict[str, Any]) -> str:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_dict(columns, Features(kinds))
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return str(folder)


KINDS = {"picture": datasets.Image(), "label": ClassLabel(names=["even", "odd", "never"])}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Ten training examples, level = row, and four to measure with, level = 100 + row."""
    for split, first, n in [("train", 0, 10), ("test", 100, 4)]:
        columns = {"picture": [png(first + i) for i in range(n)], "label": [i % 2 for i in range(n)]}
        path = write(tmp_path / "set", split, columns, KINDS)
    return path


def levels(source: HubDataset) -> list[int]:
    return source.read(torch.arange(len(source)))[0][:, 0, 0, 0].tolist()


def test_a_local_folder_is_read_and_its_columns_found_by_their_types(folder: str):
    source = HubDataset(folder)
    images, labels = source.read(torch.tensor([7, 2, 2]))
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [7, 2, 2]
    assert labels is not None
    assert labels.tolist() == [1, 0, 0]
    assert (source.image_shape, source.num_classes, len(source)) == ((1, 5, 6), 3, 10)


def test_a_relative_path_starts_from_the_working_directory(folder: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(folder).parent)
    assert len(HubDataset("set")) == 10


def test_the_test_split_is_kept_for_measuring(folder: str):
    held_out = HubDataset(folder, limit=3).held_out()
    assert held_out is not None
    assert levels(held_out) == [100, 101, 102, 103]
    assert held_out.held_out() is None
    assert HubDataset(folder, split="test").held_out() is None


def test_a_held_out_split_may_be_named(folder: str):
    held_out = HubDataset(folder, split="test", held_out_split="train").held_out()
    assert held_out is not None
    assert len(held_out) == 10


def test_a_limit_takes_the_first_examples(folder: str):
    assert levels(HubDataset(folder, limit=3)) == [0, 1, 2]
    assert len(HubDataset(folder, limit=1000)) == 10


def test_a_folder_whose_content_changed_is_read_anew(folder: str):
    assert levels(HubDataset(folder))[0] == 0
    file = Path(folder) / "data" / "train-00000-of-00001.parquet"
    before = file.stat()
    write(Path(folder), "train", {"picture": [png(55)] * 10, "label": [0] * 10}, KINDS)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert levels(HubDataset(folder)) == [55] * 10


def test_streaming_by_workers_equals_memory(folder: str):
    memory = Batches(HubDataset(folder), DataOptions(flip=True), seed=0, device=CPU)
    stream = Batches(HubDataset(folder), DataOptions(True, in_memory_mb=0, workers=2), seed=0, device=CPU)
    stream.plan((start, 4) for start in range(0, 40, 4))
    for start in range(0, 40, 4):
        assert stream.get(start, 4).images.equal(memory.get(start, 4).images)
    stream.close()


def test_a_set_without_classes_has_no_labels(tmp_path: Path):
    path = write(tmp_path / "set", "train", {"img": [png(1)]}, {"img": datasets.Image()})
    source = HubDataset(path)
    assert source.num_classes is None
    assert source.read(torch.tensor([0]))[1] is None
    assert source.held_out() is None


def test_integers_are_classes_when_they_are_named(tmp_path: Path):
    columns = {"img": [png(1), png(2)], "digit": [0, 6]}
    path = write(tmp_path / "set", "train", columns, {"img": datasets.Image(), "digit": Value("int32")})
    assert HubDataset(path).num_classes is None
    assert HubDataset(path, label_column="digit").num_classes == 7


def test_nothing_is_printed_and_progress_bars_are_as_they_were(
    folder: str, capfd: pytest.CaptureFixture[str]
):
    HubDataset(folder)
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere is missing: path must be a folder or a hub id"):
        HubDataset(str(tmp_path / "nowhere"))


def test_an_empty_folder_is_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty cannot be loaded by datasets"):
        HubDataset(str(tmp_path / "empty"))


def test_a_damaged_file_is_one_clear_line(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.parquet").write_bytes(b"PAR1, but no more")
    with pytest.raises(DataError, match="set cannot be loaded by datasets: .*[Pp]arquet") as error:
        HubDataset(str(tmp_path / "set"))
    assert "\n" not in str(error.value)


def test_without_the_hub_the_way_to_a_local_folder_is_told():
    with pytest.raises(DataError, match="ylecun/mnist is not a folder here .* set path to a local folder"):
        HubDataset("ylecun/mnist")


def test_a_configuration_must_be_one_there_is(folder: str):
    with pytest.raises(DataError, match=r"cannot be loaded by datasets: .*'fancy'.*Available: \['default'\]"):
        HubDataset(folder, config="fancy")


def test_a_split_is_not_both_trained_on_and_held_out(folder: str):
    with pytest.raises(DataError, match="split 'train' cannot be both trained on and held out"):
        HubDataset(folder, held_out_split="train")


def test_an_unknown_split_is_answered_with_those_there_are(folder: str):
    with pytest.raises(DataError, match=r"has no split 'tran', but train, test\. Did you mean 'train'\?"):
        HubDataset(folder, split="tran")
    with pytest.raises(DataError, match="has no split 'validation'"):
        HubDataset(folder, held_out_split="validation")


def test_a_missing_image_column_is_answered_with_all_columns(folder: str):
    expected = (
        r"no image column 'pictures'; it has picture \(Image\), label \(ClassLabel\)\. Did you mean 'picture'"
    )
    with pytest.raises(DataError, match=expected):
        HubDataset(folder, image_column="pictures")


def test_a_set_without_images_is_answered_with_its_columns(tmp_path: Path):
    path = write(
        tmp_path / "set", "train", {"text": ["a"], "id": [1]}, {"text": Value("string"), "id": Value("int64")}
    )
    with pytest.raises(DataError, match=r"has no image column; it has text \(string\), id \(int64\)\.$"):
        HubDataset(path)


def test_several_image_columns_need_a_choice(tmp_path: Path):
    kinds = {"left": datasets.Image(), "right": datasets.Image()}
    path = write(tmp_path / "set", "train", {"left": [png(1)], "right": [png(2)]}, kinds)
    with pytest.raises(DataError, match=r"several image columns \(left, right\): set image_column to one"):
        HubDataset(path)
    assert levels(HubDataset(path, image_column="right")) == [2]


def test_several_label_columns_need_a_choice(tmp_path: Path):
    kinds = {"img": datasets.Image(), "fine": ClassLabel(3), "coarse": ClassLabel(2)}
    path = write(tmp_path / "set", "train", {"img": [png(1)], "fine": [2], "coarse": [1]}, kinds)
    with pytest.raises(DataError, match=r"several label columns \(fine, coarse\): set label_column to one"):
        HubDataset(path)
    assert HubDataset(path, label_column="coarse").num_classes == 2


def test_a_label_column_must_hold_classes(folder: str):
    with pytest.raises(DataError, match=r"no column 'lable' of classes .* Did you mean 'label'\?"):
        HubDataset(folder, label_column="lable")


def test_rows_without_a_label_are_counted(tmp_path: Path):
    path = write(tmp_path / "set", "train", {"picture": [png(1)] * 3, "label": [0, -1, None]}, KINDS)
    with pytest.raises(DataError, match=r"split 'train': 2 of 3 rows have no label in 'label'"):
        HubDataset(path)


@pytest.mark.parametrize("megabytes", [64, 0])
def test_unreadable_images_are_named_and_counted(tmp_path: Path, megabytes: int):
    broken = [None, png(1), {"bytes": b"no picture", "path": None}, png(2)]
    path = write(tmp_path / "set", "train", {"picture": broken, "label": [0] * 4}, KINDS)
    source = HubDataset(path)
    with pytest.raises(DataError, match="^2 images cannot be read: .*set, train row 0, .*set, train row 2"):
        Batches(source, DataOptions(in_memory_mb=megabytes), seed=0, device=CPU)


def test_a_folder_of_image_files_serves_too(tmp_path: Path):
    for number, name in enumerate(["train/cat/a.png", "train/dog/b.png", "test/cat/c.png"]):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / "set" / name)
    source = HubDataset(str(tmp_path / "set"))
    assert (len(source), source.num_classes, source.image_shape) == (2, 2, (3, 4, 4))
    assert source.held_out() is not None


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="no real data beside the repository")
def test_mnist_fits_in_memory_with_every_image_and_label():
    source = HubDataset(str(REAL / "mnist"))
    batch = Batches(source, DataOptions(), seed=0, device=CPU).get(0, 60_000)
    assert batch.images.shape == (60_000, 1, 28, 28)
    assert batch.images.mean() == pytest.approx(0.1307 * 2 - 1, abs=1e-4)  # the known mean of MNIST
    assert batch.labels is not None
    assert batch.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="no real data beside the repository")
def test_cifars_images_are_found_in_their_column():
    source = HubDataset(str(REAL / "cifar10"))
    held_out = source.held_out()
    assert (source.image_column, source.image_shape, len(source)) == ("img", (3, 32, 32), 50_000)
    assert held_out is not None
    assert len(held_out) == 10_000
    images = source.read(torch.arange(2000))[0].double() / 255
    assert images.mean((0, 2, 3)).numpy() == pytest.approx(np.array([0.491, 0.482, 0.447]), abs=0.01)
