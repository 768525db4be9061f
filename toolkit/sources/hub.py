"""Data sets in the layout of Hugging Face `datasets`, on the hub or in a local folder."""

import copy
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, final

from torch import Tensor

from toolkit.data.source import DataSource, counted, listed, refuse_strange_labels
from toolkit.errors import DataError, nearest
from toolkit.files import digest
from toolkit.registry.signature import Outside, Positive
from toolkit.sources import columns, pictures
from toolkit.sources.folder import find
from toolkit.sources.pictures import SUFFIXES, Channels, Encoded, Fit, Remarks, Size

if TYPE_CHECKING:  # datasets takes half a second to import
    from datasets import Dataset, DatasetDict

Rows = tuple[str, int, int]  # a split, the first of its rows, and the one after the last

SPLIT_WORD = re.compile(
    r"(^|[-._ 0-9])(train|valid|val|dev|test|eval|training|validation|testing|evaluation)([-._ 0-9]|$)"
)
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@final
class HubDataset(DataSource):
    """A data set of images that `datasets` can read, or has written by `save_to_disk`.

    Args:
        path: a folder, or else an id on the Hugging Face hub such as "ylecun/mnist".
        config: the configuration, where the data set has several.
        split: the split to train on, or a slice of it such as "train[:80%]".
        held_out_split: the split that is kept for measuring, or a slice; if none, "test" where there is one.
        image_column: the column of images, or of their files as bytes; found by its type if none is named.
        label_column: the column of classes: ClassLabel, integers from 0, text or true and false; found by its
            type, ClassLabel, if none is named.
        size: side of the images in pixels, or [height, width]; if none, all must have the size of the first.
        fit: how they are brought to that size: "crop" resizes until it is covered and cuts out the middle,
            "resize" stretches, "pad" adds a black border (and shrinks only what is too large).
        channels: 1 for greyscale, 3 for colour; if none, as many as the first image has.
        limit: use only this many examples of the training split, the first ones.
    """

    def __init__(
        self,
        path: Outside,
        config: str | None = None,
        split: str = "train",
        held_out_split: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        size: Size | None = None,
        fit: Fit = "crop",
        channels: Channels | None = None,
        limit: Positive | None = None,
    ) -> None:
        splits, self._notes = _load(path, config)
        examples, rows = _split(splits, split, path, "split")
        self._remarks: Remarks = defaultdict(set)
        self.path = path
        self.image_column = columns.image_column(examples, image_column, path)
        self.label_column = columns.label_column(examples, label_column, path)
        self.num_classes, self.class_names = columns.classes(examples, self.label_column, path)
        self._use(split, examples.select(range(min(limit or len(examples), len(examples)))))
        self.canvas = pictures.canvas_for(self._all_encoded(), size, fit, channels)
        self.image_shape = self.canvas.shape
        if held_out_split is None and "test" in splits and all(name != "test" for name, _, _ in rows):
            held_out_split = "test"
        self._held_out: tuple[str, Dataset] | None = None
        if held_out_split is not None:
            kept, kept_rows = _split(splits, held_out_split, path, "held_out_split")
            if any(_overlap(one, other) for one in rows for other in kept_rows):
                both = sorted({repr(split), repr(held_out_split)})
                text = f"{path}: split {' and '.join(both)} cannot be both trained on and held out."
                raise DataError(text, option="held_out_split")
            self._held_out = (held_out_split, kept)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = pictures.decode(self.encoded(indices), self.canvas, self._remarks)
        return images, None if self._labels is None else self._labels[indices]

    def check(self, indices: Tensor) -> None:
        pictures.check(self.encoded(indices), self.canvas, self._remarks)

    def encoded(self, indices: Tensor) -> Iterator[Encoded]:
        """The bytes or the files of some pictures."""
        return self._encoded(indices.tolist())

    def all_labels(self) -> Tensor | None:
        return self._labels

    def notes(self) -> Sequence[str]:
        return [*self._notes, *(f"{what}: {listed(sorted(names))}" for what, names in self._remarks.items())]

    def fingerprint(self) -> Mapping[str, str]:
        from pyarrow import compute

        facts: list[tuple[int, int]] = []
        for rows in self._images.with_format("arrow").iter(10_000):
            images = rows.column(self.image_column)  # whose lengths are known without a copy of their bytes
            lengths = compute.binary_length(compute.struct_field(images, "bytes"))
            files = compute.struct_field(images, "path")
            for length, file in zip(lengths.to_pylist(), files.to_pylist(), strict=True):
                alone = length is None and file
                facts.append(pictures.size_and_time(Path(file)) if alone else (length or 0, 0))
        return {"sizes": digest([size for size, _ in facts]), "times": digest([time for _, time in facts])}

    def held_out(self) -> "HubDataset | None":
        if self._held_out is None:
            return None
        other = copy.copy(self)
        other._use(*self._held_out)
        other._held_out = None
        return other

    def _use(self, split: str, examples: "Dataset") -> None:
        """Read from these examples; DataError if their labels are not those of the classes."""
        import datasets

        self.split = split
        where = f"{self.path}, split {split!r}"
        self._labels = columns.labels(examples, self.label_column, self.class_names, where)
        try:
            refuse_strange_labels(self._labels, self.num_classes)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        # Undecoded, because datasets does not say which image it could not read.
        encoded = datasets.Image(decode=False)
        self._images = examples.select_columns([self.image_column]).cast_column(self.image_column, encoded)

    def _encoded(self, rows: Sequence[int]) -> Iterator[Encoded]:
        for row, image in zip(rows, self._images[rows][self.image_column], strict=True):
            content, file = (image["bytes"], image["path"]) if image else (None, None)
            if content is None and file:
                yield file, Path(file)
            else:
                yield f"{self.path}, {self.split} row {row}", BytesIO(content or b"")

    def _all_encoded(self) -> Iterator[Encoded]:
        """One by one, because rarely more than the first is needed."""
        for row in range(len(self)):
            yield from self._encoded([row])


def _load(path: str, config: str | None) -> tuple["DatasetDict", list[str]]:
    """All splits, and notes on files of a folder that are in none. A folder here is meant before a hub id.

    Raises:
        DataError: if there is neither, it cannot be fetched, or `datasets` cannot read it.
    """
    import datasets

    folder = Path(path).expanduser()
    local = folder.is_dir()
    if not local and (folder.exists() or not HUB_ID.fullmatch(path)):
        state = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{path} {state}: it must be a folder or a hub id.", option="path")
    try:
        with _quiet():
            return _loaded(folder, path, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if local or not isinstance(error, OSError):
            option = "config" if config is not None and repr(config) in reason else "path"
            raise DataError(f"{path} cannot be loaded by datasets: {reason}", option=option) from error
        raise DataError(
            f"{path} is not a folder here (in {Path.cwd()}), and cannot be fetched from the hub ({reason}). "
            "Without a connection, set path to a local folder that holds the data set.",
            option="path",
        ) from error


def _loaded(folder: Path, path: str, config: str | None) -> tuple["DatasetDict", list[str]]:
    """As `datasets` reads it, with notes on what it leaves out of a folder."""
    import datasets

    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        saved = datasets.load_from_disk(str(folder.resolve()))
        one = isinstance(saved, datasets.Dataset)
        return datasets.DatasetDict({"train": saved}) if one else saved, []
    local = folder.is_dir()
    builder = datasets.load_dataset_builder(str(folder.resolve()) if local else path, config)
    notes = _left_out(folder.resolve(), builder.config.data_files, path) if local else []
    builder.download_and_prepare()
    return builder.as_dataset(), notes


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and with one line, the first, on attempts to reach the hub that fail."""
    import datasets

    bars_enabled, lines = not datasets.are_progress_bars_disabled(), count()
    attempts = logging.getLogger("huggingface_hub.utils._http")

    def first(line: logging.LogRecord) -> bool:
        return next(lines) == 0

    datasets.disable_progress_bars()
    attempts.addFilter(first)
    try:
        yield
    finally:
        attempts.removeFilter(first)
        if bars_enabled:
            datasets.enable_progress_bars()


def _left_out(folder: Path, splits: Mapping[str, Sequence[str]] | None, path: str) -> list[str]:
    """What of a folder datasets leaves out, though it is of the kind that it reads.

    Raises:
        DataError: if words in the names of image files were taken for splits, and other images lie beside.
    """
    used = {Path(str(file)) for files in (splits or {}).values() for file in files}
    suffixes = {file.suffix.lower() for file in used}
    listing = find(folder, {*suffixes, *SUFFIXES} if suffixes & set(SUFFIXES) else suffixes)
    rest = [file for file in listing.files if folder / file not in used]
    if not rest:
        return listing.linked()
    names = listed([str(file) for file in rest])
    images = [file for file in used if file.suffix.lower() in SUFFIXES]
    beside = {file.parent for file in images} & {(folder / file).parent for file in rest}
    if beside and all(SPLIT_WORD.search(file.stem.lower()) for file in images):
        taken = ", ".join(f"{split} with {len(files)}" for split, files in (splits or {}).items())
        raise DataError(
            f"{path}: datasets takes words in the names of images for splits ({taken}), and {len(rest)} "
            f'others are in none ({names}): set type = "folder", or give each split a folder of its name.',
            option="path",
        )
    return [
        *listing.linked(),
        f"{counted(len(rest), 'file')} in no split, or that datasets does not know, left out: {names}",
    ]


def _split(splits: "DatasetDict", name: str, path: str, option: str) -> tuple["Dataset", list[Rows]]:
    """A split, or a slice of one such as "train[:80%]", and which rows of which splits these are.

    The `option` is what names it.

    Raises:
        DataError: if there is no such split, or it has no rows.
    """
    import datasets

    unsliced = re.sub(r"\[[^\]]*\]", "", name)
    if name not in splits and unsliced not in splits and "+" not in name:
        listing = ", ".join(splits)
        text = f"{path} has no split {unsliced!r}, but {listing}.{nearest(unsliced, splits)}"
        raise DataError(text, option=option)
    lengths = {split: len(examples) for split, examples in splits.items()}
    try:
        parts = datasets.ReadInstruction.from_spec(name).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f'{path}: split {name!r} is not one, as "train" or "train[:80%]" are: {reason}', option=option
        ) from None
    rows = [(part.splitname, part.from_, part.to) for part in parts if part.from_ < part.to]
    if not rows:
        raise DataError(f"{path}: split {name!r} is empty.", option=option)
    chosen = [splits[split].select(range(first, end)) for split, first, end in rows]
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen), rows


def _overlap(one: Rows, other: Rows) -> bool:
    """Whether a row is in both."""
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
