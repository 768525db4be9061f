"""Data sets in the layout of Hugging Face datasets."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
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
    with pytest.raises(DataError, match="nowhere does not exist: it must be a folder or a hub id"):
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


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_once_however_often_it_is_asked(tmp_path: Path):
    code = "from toolkit.sources.hub import HubDataset; HubDataset('ylecun/mnist')"
    closed = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **closed},
        capture_output=True,
        text=True,
        check=False,
    )
    said, _, _ = asked.stderr.partition("Traceback")
    assert said.count("\n") == 1 and "thrown while requesting HEAD http://127.0.0.1:1" in said
    assert "DataError: ylecun/mnist is not a folder here" in asked.stderr


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
    with pytest.raises(DataError, match="^2 images cannot be read: .*set, train row 0 .*set, train row 2"):
        Batches(source, DataOptions(in_memory_mb=megabytes), seed=0, device=CPU)


def test_a_folder_of_image_files_serves_too(tmp_path: Path):
    for number, name in enumerate(["train/cat/a.png", "train/dog/b.png", "test/cat/c.png"]):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (number,) * 3).save(tmp_path / "set" / name)
    source = HubDataset(str(tmp_path / "set"))
    assert (len(source), source.num_classes, source.image_shape) == (2, 2, (3, 4, 4))
    assert source.held_out() is not None


INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


def labelled(
    folder: Path, kind: str, labels: list[Any], test: list[Any] | None = None, **options: Any
) -> HubDataset:
    """A set with a column `kind` of labels of that type."""
    for split, values in {"train": labels, "test": test}.items():
        if values is not None:
            columns = {"picture": [png(i) for i in range(len(values))], "kind": values}
            write(folder, split, columns, {"picture": datasets.Image(), "kind": Value(kind)})
    return HubDataset(str(folder), label_column="kind", **options)


@pytest.mark.parametrize("kind", INTEGERS)
def test_labels_are_of_any_type_of_integers(tmp_path: Path, kind: str):
    source = labelled(tmp_path / "set", kind, [0, 2, 1])
    labels = source.read(torch.tensor([2, 1]))[1]
    assert labels is not None and labels.dtype == torch.int64 and labels.tolist() == [1, 2]
    assert (source.num_classes, source.class_names) == (3, None)


@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_a_missing_label_is_missing_in_any_type_of_integers(tmp_path: Path, kind: str):
    with pytest.raises(DataError, match="1 of 2 rows have no label in 'kind'"):
        labelled(tmp_path / "set", kind, [0, None])


def test_text_labels_are_classes_with_names_in_alphabetical_order(tmp_path: Path):
    source = labelled(tmp_path / "set", "string", ["dog", "cat", "dog"], test=["cat"], limit=1)
    assert (source.num_classes, source.class_names) == (2, ("cat", "dog"))  # the limit drops no class
    held_out = source.held_out()
    for one, expected in ((source, [1]), (held_out, [0])):
        labels = one.all_labels() if one is not None else None
        assert labels is not None and labels.tolist() == expected


def test_bool_labels_are_two_classes(tmp_path: Path):
    source = labelled(tmp_path / "set", "bool", [True, True])
    labels = source.all_labels()
    assert (source.num_classes, source.class_names) == (2, ("False", "True"))
    assert labels is not None and labels.tolist() == [1, 1]


@pytest.mark.parametrize(("kind", "labels", "message"), [
    ("float32", [0.0, 1.0], "column 'kind' holds float32, and classes are .*: save it as one of"),
    ("string", ["", None], "no row has a label in 'kind'"),
    ("string", ["cat", ""], "1 of 2 rows have no label in 'kind'"),
    ("int64", [0, -1], "1 of 2 rows have no label"),
])  # fmt: skip
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, kind: str, labels: list[Any], message: str):
    with pytest.raises(DataError, match=message):
        labelled(tmp_path / "set", kind, labels)


def test_numbers_beyond_any_class_are_refused(tmp_path: Path):
    kind = pyarrow.array([0, 2**64 - 1], pyarrow.uint64())
    table = pyarrow.table({"img": [png(1)["bytes"]] * 2, "kind": kind})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="column 'kind' holds numbers too large for classes"):
        HubDataset(str(tmp_path), label_column="kind")


@pytest.mark.parametrize(("kind", "train", "test", "message"), [
    ("int64", [0, 1], [0, 7], "split 'test': labels run from 0 to 7, but the data has 2 classes"),
    ("string", ["cat", "dog"], ["emu"], "split 'test': .* has classes that are not trained on: emu"),
])  # fmt: skip
def test_held_out_labels_must_be_classes_that_are_trained_on(
    tmp_path: Path, kind: str, train: list[Any], test: list[Any], message: str
):
    source = labelled(tmp_path / "set", kind, train, test)
    with pytest.raises(DataError, match=message):
        source.held_out()


@pytest.mark.parametrize("form", ["plain", "with path", "large"])
def test_images_may_be_files_as_bytes(tmp_path: Path, form: str):
    pictures = [png(level) for level in (3, 4)]
    values = pictures if form == "with path" else [picture["bytes"] for picture in pictures]
    kind: Any = Value("large_binary" if form == "large" else "binary")
    kinds = {"content": {"bytes": kind, "path": Value("string")} if form == "with path" else kind}
    source = HubDataset(write(tmp_path / "set", "train", {"content": values}, kinds))
    assert levels(source) == [3, 4]
    assert source.fingerprint()["sizes"]


@pytest.mark.parametrize("several", [True, False])
def test_what_save_to_disk_wrote_is_read(folder: str, tmp_path: Path, several: bool):
    splits = datasets.load_dataset(folder)
    (splits if several else splits["train"]).save_to_disk(tmp_path / "saved")
    source = HubDataset(str(tmp_path / "saved"))
    assert levels(source) == list(range(10))
    assert (source.held_out() is not None) == several


@pytest.mark.parametrize(("split", "expected"), [
    ("train[:3]", [0, 1, 2]),
    ("train[80%:]", [8, 9]),
    ("train[-1:]", [9]),
    ("train[:1]+train[5:6]", [0, 5]),
])  # fmt: skip
def test_a_split_may_be_a_slice(folder: str, split: str, expected: list[int]):
    source = HubDataset(folder, split=split)
    assert levels(source) == expected
    labels = source.all_labels()
    assert labels is not None and labels.tolist() == [level % 2 for level in expected]
    assert source.held_out() is not None  # the split "test", as for all of "train"


def test_one_split_may_be_trained_on_and_held_out_in_parts(folder: str):
    held_out = HubDataset(folder, split="train[:80%]", held_out_split="train[80%:]").held_out()
    assert held_out is not None and levels(held_out) == [8, 9]
    with pytest.raises(DataError, match=r"split 'train\[5:\]' and 'train\[:6\]' cannot be both"):
        HubDataset(folder, split="train[:6]", held_out_split="train[5:]")
    assert HubDataset(folder, split="train[:2]+test[:2]").held_out() is None


@pytest.mark.parametrize(("split", "message"), [
    ("train[:3", r"has no split 'train\[:3', but train, test"),
    ("train[3:3]", "is empty"),
    ("train[a:b]", "is not one, as"),
    ("train[:3]+tset", "is not one, as"),
    ("tran[:3]", r"has no split 'tran', but train, test\. Did you mean 'train'"),
])  # fmt: skip
def test_a_slice_that_is_none_is_refused(folder: str, split: str, message: str):
    with pytest.raises(DataError, match=message):
        HubDataset(folder, split=split)


def paint(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name)
    return str(folder)


@pytest.mark.parametrize("name", ["train.png", "my_train_01.jpg", "eval-1.png", "test shot.png", "val.png"])
def test_a_word_in_a_files_name_does_not_decide_what_is_trained_on(tmp_path: Path, name: str):
    path = paint(tmp_path / "set", name, *(f"img_{number}.png" for number in range(5)))
    message = r"words in the names of images for splits \(\w+ with 1\), and 5 others are in none .*\"folder\""
    with pytest.raises(DataError, match=message):
        HubDataset(path)


@pytest.mark.parametrize(("names", "expected"), [
    (("train/1.png", "train/2.png", "more/3.png"), ["more/3.png"]),
    (("latest.png", "a.png"), []),
    (("train_1.png", "test_1.png"), []),
])  # fmt: skip
def test_files_in_no_split_are_said(tmp_path: Path, names: tuple[str, ...], expected: list[str]):
    path = paint(tmp_path / "set", *names)
    notes = HubDataset(path).notes()
    assert [note.partition("left out: ")[2] for note in notes] == expected


def test_files_of_other_formats_beside_are_said(tmp_path: Path):
    path = paint(tmp_path / "set", "a.png")
    (tmp_path / "set" / "b.png.part").write_text("")
    (tmp_path / "set" / "c.avif").write_text("")
    (tmp_path / "set" / "dog").symlink_to(tmp_path)
    linked, unknown = HubDataset(path).notes()
    assert linked == "1 linked folder left out, links are not followed: dog"
    assert unknown.endswith("left out: c.avif")


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
