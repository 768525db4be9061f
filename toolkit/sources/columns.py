"""Columns of images and of classes in a data set of Hugging Face `datasets`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.data.source import listed
from toolkit.errors import DataError, nearest

if TYPE_CHECKING:  # datasets takes half a second to import
    from datasets import Dataset

TEXT = ("string", "large_string")


def image_column(examples: "Dataset", named: str | None, path: str) -> str:
    """The column of images: the one that is named, else the only one of type Image, or of files as bytes.

    Raises:
        DataError: if there is none, or several of which none is named, with the columns that there are.
    """
    import datasets

    kinds = examples.features
    images = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    files = [name for name, kind in kinds.items() if _holds_files(kind)]
    candidates = [*images, *files] if named is not None else images or files
    if named is not None and named not in candidates:
        raise DataError(
            f"{path} has no image column {named!r}; it has {_columns(examples)}.{nearest(named, candidates)}",
            option="image_column",
        )
    if named is None and not candidates:
        raise DataError(f"{path} has no image column; it has {_columns(examples)}.", option="path")
    if named is None and len(candidates) > 1:
        names = ", ".join(candidates)
        text = f"{path} has several image columns ({names}): set image_column to one."
        raise DataError(text, option="image_column")
    return named or candidates[0]


def label_column(examples: "Dataset", named: str | None, path: str) -> str | None:
    """The column of classes: the one that is named, else the only ClassLabel; None if there is none.

    Raises:
        DataError: if the column that is named is not there or cannot be classes, or if there are several.
    """
    import datasets

    candidates = [name for name, kind in examples.features.items() if isinstance(kind, datasets.ClassLabel)]
    if named is None and len(candidates) > 1:
        names = ", ".join(candidates)
        text = f"{path} has several label columns ({names}): set label_column to one."
        raise DataError(text, option="label_column")
    if named is None:
        return candidates[0] if candidates else None
    kind = examples.features.get(named)
    if kind is None or not _dtype(kind):
        raise DataError(
            f"{path} has no column {named!r} of classes (ClassLabel, integers from 0, text, or true and "
            f"false); it has {_columns(examples)}.{nearest(named, examples.features)}",
            option="label_column",
        )
    if named not in candidates and "int" not in _dtype(kind) and _dtype(kind) not in (*TEXT, "bool"):
        raise DataError(
            f"{path}: column {named!r} holds {_dtype(kind)}, and classes are ClassLabel, integers from 0, "
            "text, or true and false: save it as one of these, or leave label_column out to train without "
            "classes.",
            option="label_column",
        )
    return named


def _dtype(kind: Any) -> str:
    """The type of a column's values: int64, string, ...; "" for images, lists and the like."""
    return str(kind.dtype) if type(kind).__name__ in ("Value", "ClassLabel") else ""


def _holds_files(kind: Any) -> bool:
    """Whether a column holds files as bytes, plain or with their names: {bytes, path}."""
    if isinstance(kind, dict):
        return set(kind) == {"bytes", "path"} and _holds_files(kind["bytes"])
    return _dtype(kind) in ("binary", "large_binary")


def _columns(examples: "Dataset") -> str:
    """The columns with their types: `img (Image), label (ClassLabel), id (int64)`."""
    return ", ".join(
        f"{name} ({kind.dtype if type(kind).__name__ == 'Value' else type(kind).__name__})"
        for name, kind in examples.features.items()
    )


def classes(examples: "Dataset", column: str | None, path: str) -> tuple[int | None, tuple[str, ...] | None]:
    """The number of classes in a split, and their names; None for each that there is not.

    Text is numbered in alphabetical order, false and true are 0 and 1, and numbers have no names.

    Raises:
        DataError: if no row has a label, or a number is too large.
    """
    import datasets

    if column is None:
        return None, None
    kind = examples.features[column]
    if isinstance(kind, datasets.ClassLabel):
        return kind.num_classes, tuple(kind.names)
    if kind.dtype == "bool":
        return 2, ("False", "True")
    if kind.dtype in TEXT:
        names = tuple(sorted({label for label in _column(examples, column).to_pylist() if label}))
        if not names:
            raise DataError(f"{path}: no row has a label in {column!r}.")
        return len(names), names
    return int(_numbers(examples, column, path).max()) + 1, None


def labels(examples: "Dataset", column: str | None, names: Sequence[str] | None, where: str) -> Tensor | None:
    """The classes of all rows, int64 (n,); None without a column.

    Raises:
        DataError: if a row has none, as in the test splits of competitions, or one that is not among `names`.
    """
    if column is None:
        return None
    if examples.features[column].dtype in TEXT:
        number = {name: index for index, name in enumerate(names or ())}
        texts = _column(examples, column).to_pylist()
        if strange := sorted({text for text in texts if text and text not in number}):
            raise DataError(
                f"{where}: column {column!r} has classes that are not trained on: {listed(strange)}."
            )
        numbers = torch.tensor([number.get(text, -1) for text in texts])
    else:
        numbers = _numbers(examples, column, where)
    if missing := int((numbers < 0).sum()):
        none = f"{missing} of {len(numbers)} rows have no label in {column!r} (null, empty or negative)"
        raise DataError(f"{where}: {none}.")
    return numbers


def _numbers(examples: "Dataset", column: str, where: str) -> Tensor:
    """A column of numbers, int64 (n,); -1 where there is none."""
    import pyarrow

    try:  # before nulls are filled: -1 in an unsigned type is its largest number
        values = _column(examples, column).cast(pyarrow.int64())
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{where}: column {column!r} holds numbers too large for classes: {error}") from None
    return torch.tensor(values.fill_null(-1).to_numpy())


def _column(examples: "Dataset", column: str) -> Any:
    """A column as an Arrow array."""
    return examples.select_columns([column]).with_format("arrow")[:].column(column)
