"""A folder of image files."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit.data.order import permutation
from toolkit.data.source import DataSource
from toolkit.errors import DataError
from toolkit.registry.signature import Positive
from toolkit.sources import pictures
from toolkit.sources.pictures import Channels, Encoded, Fit

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train", "training", "test", "val", "valid", "validation"}


@final
class ImageFolder(DataSource):
    """The image files of a folder and all its sub-folders, in the order of their paths.

    If every image lies in one of several sub-folders, these are the classes, in alphabetical order. Hidden
    files, and those without the suffix of an image, are skipped.

    Args:
        path: the folder.
        size: side of the images in pixels; if none, all must have the size of the first.
        fit: how they are brought to that size: "crop" resizes the short side and cuts out the middle,
            "resize" stretches, "pad" adds a black border (and shrinks only what is too large).
        channels: 1 for greyscale, 3 for colour; if none, as many as the first image has.
        held_out_fraction: share of the images, chosen at random but always the same, that is kept for
            measuring and never trained on.
    """

    def __init__(
        self,
        path: Path,
        size: Positive | None = None,
        fit: Fit = "crop",
        channels: Channels | None = None,
        held_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        self.path = path.expanduser()
        self.files = _image_files(self.path)
        classes = _classes(self.path, self.files)
        self.num_classes, self.class_names = len(classes) or None, tuple(classes) or None
        number = {name: index for index, name in enumerate(classes)}
        self.labels = torch.tensor([number[file.parts[0]] for file in self.files]) if classes else None
        everything = torch.arange(len(self.files))
        held_out = int(held_out_fraction * len(self.files))
        by_chance = permutation(0, len(self.files))
        self._rows, self._held_out = by_chance[held_out:].sort().values, by_chance[:held_out].sort().values
        self.canvas = pictures.canvas_for(self._encoded(everything), size, fit, channels)
        self.image_shape = self.canvas.shape

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        rows = self._rows[indices]
        images = pictures.decode(self._encoded(rows), self.canvas)
        return images, None if self.labels is None else self.labels[rows]

    def check(self, indices: Tensor) -> None:
        pictures.check(self._encoded(self._rows[indices]), self.canvas)

    def held_out(self) -> "ImageFolder | None":
        if not len(self._held_out):
            return None
        other = copy.copy(self)
        other._rows, other._held_out = self._held_out, self._held_out[:0]
        return other

    def _encoded(self, rows: Tensor) -> Iterator[Encoded]:
        for row in rows.tolist():
            file = self.path / self.files[row]
            yield str(file), file


def _image_files(folder: Path) -> list[Path]:
    """Paths below the folder, sorted; DataError if it is missing or has none."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} is {'a file' if folder.exists() else 'missing'}: path must be a folder of images."
        )
    below = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    files = sorted(file for file in below if not any(part.startswith(".") for part in file.parts))
    if not files:
        raise DataError(
            f"{folder} has no images: neither it nor a sub-folder holds a file in {', '.join(SUFFIXES)}."
        )
    return files


def _classes(folder: Path, files: list[Path]) -> list[str]:
    """The sub-folders that are classes; none if images lie beside them, or there is only one."""
    if any(len(file.parts) == 1 for file in files):
        return []
    names = sorted({file.parts[0] for file in files})
    if SPLITS.issuperset(name.lower() for name in names) and len(names) > 1:
        raise DataError(
            f"{folder} has the sub-folders {' and '.join(names)}, which are splits and not classes: "
            'set path to one of them, or type = "datasets", which knows splits.'
        )
    return names if len(names) > 1 else []
