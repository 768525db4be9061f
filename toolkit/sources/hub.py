"""Data sets in the layout of Hugging Face `datasets`, on the hub or in a local folder."""

import copy
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.errors import DataError, nearest
from toolkit.registry.signature import Outside, Positive
from toolkit.sources import pictures
from toolkit.sources.pictures import Channels, Encoded, Fit

if TYPE_CHECKING:  # datasets takes half a second to import
    from datasets import Dataset, DatasetDict

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@final
class HubDataset(DataSource):
    """A data set of images that `datasets.load_dataset` can read.

    Args:
        path: a folder, or else an id on the Hugging Face hub such as "ylecun/mnist".
        config: the configuration, where the data set has several.
        split: the split to train on.
        held_out_split: the split that is kept for measuring; if none, "test" where there is one.
        image_column: the column of images; found by its type if none is named.
        label_column: the column of classes (ClassLabel, or integers from 0); found by its type, ClassLabel,
            if none is named.
        size: side of the images in pixels; if none, all must have the size of the first.
        fit: how they are brought to that size: "crop" resizes the short side and cuts out the middle,
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
        size: Positive | None = None,
        fit: Fit = "crop",
        channels: Channels | None = None,
        limit: Positive | None = None,
    ) -> None:
        splits = _load(path, config)
        examples = _split(splits, split, path)
        examples = examples.select(range(min(limit or len(examples), len(examples))))
        self.path = path
        self.image_column = _image_column(examples, image_column, path)
        self.label_column = _label_column(examples, label_column, path)
        self._use(split, examples)
        self.num_classes = _num_classes(examples, self.label_column, self.labels)
        self.class_names = _class_names(examples, self.label_column)
        self.canvas = pictures.canvas_for(self._all_encoded(), size, fit, channels)
        self.image_shape = self.canvas.shape
        if held_out_split == split:
            raise DataError(f"{path}: split {split!r} cannot be both trained on and held out.")
        if held_out_split is None and "test" in splits and split != "test":
            held_out_split = "test"
        self._held_out = (held_out_split, _split(splits, held_out_split, path)) if held_out_split else None

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = pictures.decode(self._encoded(indices.tolist()), self.canvas)
        return images, None if self.labels is None else self.labels[indices]

    def check(self, indices: Tensor) -> None:
        pictures.check(self._encoded(indices.tolist()), self.canvas)

    def held_out(self) -> "HubDataset | None":
        if self._held_out is None:
            return None
        other = copy.copy(self)
        other._use(*self._held_out)
        other._held_out = None
        return other

    def _use(self, split: str, examples: "Dataset") -> None:
        import datasets

        self.split = split
        self.labels = _labels(examples, self.label_column, f"{self.path}, split {split!r}")
        # Undecoded, because datasets does not say which image it could not read.
        encoded = datasets.Image(decode=False)
        self._images = examples.select_columns([self.image_column]).cast_column(self.image_column, encoded)

    def _encoded(self, rows: Sequence[int]) -> Iterator[Encoded]:
        for row, image in zip(rows, self._images[rows][self.image_column], strict=True):
            image = image or {"bytes": b"", "path": None}
            file = Path(image["path"]) if image["bytes"] is None else BytesIO(image["bytes"])
            yield f"{self.path}, {self.split} row {row}", file

    def _all_encoded(self) -> Iterator[Encoded]:
        """One by one, because rarely more than the first is needed."""
        for row in range(len(self)):
            yield from self._encoded([row])


def _load(path: str, config: str | None) -> "DatasetDict":
    """All splits; an existing folder takes precedence over a hub id."""
    import datasets

    folder = Path(path).expanduser()
    local = folder.is_dir()
    if not local and (folder.exists() or not HUB_ID.fullmatch(path)):
        raise DataError(
            f"{path} is {'a file' if folder.exists() else 'missing'}: path must be a folder or a hub id."
        )
    bars_enabled = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(str(folder.resolve()) if local else path, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if local or not isinstance(error, OSError):
            raise DataError(f"{path} cannot be loaded by datasets: {reason}") from error
        raise DataError(
            f"{path} is not a folder here (in {Path.cwd()}), and cannot be fetched from the hub ({reason}). "
            "Without a connection, set path to a local folder that holds the data set."
        ) from error
    finally:
        if bars_enabled:
            datasets.enable_progress_bars()


def _split(splits: "DatasetDict", name: str, path: str) -> "Dataset":
    if name not in splits:
        raise DataError(f"{path} has no split {name!r}, but {', '.join(splits)}.{nearest(name, splits)}")
    if not len(splits[name]):
        raise DataError(f"{path}: split {name!r} is empty.")
    return splits[name]


def _image_column(examples: "Dataset", named: str | None, path: str) -> str:
    import datasets

    candidates = [name for name, kind in examples.features.items() if isinstance(kind, datasets.Image)]
    if named is not None and named not in candidates:
        raise DataError(
            f"{path} has no image column {named!r}; it has {_columns(examples)}.{nearest(named, candidates)}"
        )
    if named is None and not candidates:
        raise DataError(f"{path} has no image column; it has {_columns(examples)}.")
    if named is None and len(candidates) > 1:
        names = ", ".join(candidates)
        raise DataError(f"{path} has several image columns ({names}): set image_column to one.")
    return named or candidates[0]


def _label_column(examples: "Dataset", named: str | None, path: str) -> str | None:
    import datasets

    candidates = [name for name, kind in examples.features.items() if isinstance(kind, datasets.ClassLabel)]
    if named is None and len(candidates) > 1:
        names = ", ".join(candidates)
        raise DataError(f"{path} has several label columns ({names}): set label_column to one.")
    if named is None:
        return candidates[0] if candidates else None
    kind = examples.features.get(named)
    if named not in candidates and not (isinstance(kind, datasets.Value) and "int" in kind.dtype):
        raise DataError(
            f"{path} has no column {named!r} of classes (ClassLabel, or integers from 0); "
            f"it has {_columns(examples)}.{nearest(named, examples.features)}"
        )
    return named


def _columns(examples: "Dataset") -> str:
    """The columns with their types: `img (Image), label (ClassLabel), id (int64)`."""
    return ", ".join(
        f"{name} ({kind.dtype if type(kind).__name__ == 'Value' else type(kind).__name__})"
        for name, kind in examples.features.items()
    )


def _labels(examples: "Dataset", column: str | None, where: str) -> Tensor | None:
    """int64 (n,); DataError if a row has none, as in the test splits of competitions."""
    if column is None:
        return None
    table = examples.select_columns([column]).with_format("arrow")[:]
    labels = torch.from_numpy(table.column(column).fill_null(-1).to_numpy().astype("int64"))
    if missing := int((labels < 0).sum()):
        raise DataError(
            f"{where}: {missing} of {len(labels)} rows have no label in {column!r} (null or negative)."
        )
    return labels


def _num_classes(examples: "Dataset", column: str | None, labels: Tensor | None) -> int | None:
    import datasets

    if column is None or labels is None:
        return None
    kind = examples.features[column]
    return kind.num_classes if isinstance(kind, datasets.ClassLabel) else int(labels.max()) + 1


def _class_names(examples: "Dataset", column: str | None) -> tuple[str, ...] | None:
    """The names that a ClassLabel column has for its classes."""
    import datasets

    kind = examples.features[column] if column is not None else None
    return tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
