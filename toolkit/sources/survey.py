"""What a folder of pictures, or a data set, holds: counted before anything is chosen."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolkit.data.source import UnreadableImages, counted, listed
from toolkit.errors import DataError
from toolkit.sources.folder import ImageFolder, find
from toolkit.sources.hub import HubDataset
from toolkit.sources.pictures import GREYSCALE, SUFFIXES, opened_pictures

if TYPE_CHECKING:
    from PIL.Image import Image

TABLES = (".parquet", ".arrow")  # of a data set
LOOKED_AT = 2000  # pictures that are decoded, spread over the whole
THUMBNAILS, SIDE = 64, 64


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        table: the [data] that reads it, without a size.
        number: of pictures, those that are held out not counted.
        looked_at: how many of them were decoded.
        sizes: how many of these have which (width, height).
        grey: how many are greyscale.
        classes: how many pictures each class has, by name; empty without labels.
        unreadable: those that cannot be decoded, with the reason.
        notes: what is left out, and why.
        thumbnails: the first of those that were decoded, small.
    """

    table: dict[str, Any]
    number: int
    looked_at: int
    sizes: Counter[tuple[int, int]]
    grey: int
    classes: dict[str, int]
    unreadable: list[str]
    notes: list[str]
    thumbnails: list["Image"] = field(repr=False)

    @property
    def short_side(self) -> int:
        """The median of the shorter sides, in pixels."""
        sides = sorted(min(size) for size in self.sizes.elements())
        return sides[len(sides) // 2]

    def lines(self) -> Iterator[str]:
        """The report, a line each."""
        among = "" if self.looked_at == self.number else f" (of {self.looked_at:,} looked at)"
        yield f'{counted(self.number, "picture")}, as [data] type = "{self.table["type"]}"'
        common = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in self.sizes.most_common(3))
        more = f", {len(self.sizes) - 3:,} other sizes" if len(self.sizes) > 3 else ""
        yield f"sizes{among}: {common}{more}; shorter side {self.short_side} in the middle"
        coloured = sum(self.sizes.values()) - self.grey
        yield f"colour{among}: {coloured:,} in colour, {self.grey:,} greyscale"
        if self.classes:
            yield f"{counted(len(self.classes), 'class', 'classes')}: {_shares(self.classes)}"
        else:
            yield "no classes"
        if self.unreadable:
            yield f"{counted(len(self.unreadable), 'picture')} cannot be read: {listed(self.unreadable)}"
        yield from self.notes


def survey(path: str) -> Survey:
    """Look at a folder of pictures, at a folder that `datasets` can read, or at a data set on the Hub.

    Raises:
        DataError: if there is nothing to train on.
    """
    source, table = _source(path)
    number = len(source)
    chosen = torch.linspace(0, number - 1, min(number, LOOKED_AT)).long()
    sizes, grey, unreadable = Counter[tuple[int, int]](), 0, list[str]()
    thumbnails: list[Image] = []
    try:
        for _, image in opened_pictures(source.encoded(chosen), decoded=True):
            sizes[image.size] += 1
            grey += image.mode in GREYSCALE
            if len(thumbnails) < THUMBNAILS:
                small = image.convert("RGB")
                small.thumbnail((SIDE, SIDE))
                thumbnails.append(small)
    except UnreadableImages as error:
        unreadable = list(error.names)
    if not sizes:
        raise DataError(f"{path}: none of its pictures can be read: {listed(unreadable)}")
    labels, classes = source.all_labels(), dict[str, int]()
    if labels is not None and source.num_classes:
        counts = labels.bincount(minlength=source.num_classes).tolist()
        names = source.class_names or map(str, range(source.num_classes))
        classes = dict(zip(names, counts, strict=True))
    notes = list(source.notes())
    return Survey(table, number, len(chosen), sizes, grey, classes, unreadable, notes, thumbnails)


def _source(path: str) -> tuple[ImageFolder | HubDataset, dict[str, Any]]:
    folder = Path(path).expanduser()
    files = find(folder, (*SUFFIXES, *TABLES)).files if folder.is_dir() else []
    if files and not any(file.suffix.lower() in TABLES for file in files):
        return ImageFolder(folder, size=8), {"type": "folder", "path": path}
    if folder.exists() or path.count("/") == 1:
        return HubDataset(path, size=8), {"type": "datasets", "path": path}
    raise DataError(f"{path}: no such folder, and not the id of a data set on the Hub, such as ylecun/mnist")


def _shares(classes: dict[str, int]) -> str:
    first = ", ".join(f"{name} ({n:,})" for name, n in list(classes.items())[:10])
    return first + (f", and {len(classes) - 10:,} more" if len(classes) > 10 else "")
