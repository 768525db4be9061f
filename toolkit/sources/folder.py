"""A folder of image files."""

import copy
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit.data.order import permutation
from toolkit.data.source import DataSource, counted, listed
from toolkit.errors import DataError
from toolkit.files import digest
from toolkit.sources import pictures
from toolkit.sources.pictures import SUFFIXES, Channels, Encoded, Fit, Remarks, Size

SPLITS = {"train", "training", "test", "val", "valid", "validation"}


@final
class ImageFolder(DataSource):
    """The image files of a folder and all its sub-folders, in the order of their paths.

    If every image lies in one of several sub-folders, these are the classes, in alphabetical order. Hidden
    files, those without the suffix of an image, and linked folders are left out, and a note says so.

    Args:
        path: the folder.
        size: side of the images in pixels, or [height, width]; if none, all must have the size of the first.
        fit: how they are brought to that size: "crop" resizes until it is covered and cuts out the middle,
            "resize" stretches, "pad" adds a black border (and shrinks only what is too large).
        channels: 1 for greyscale, 3 for colour; if none, as many as the first image has.
        held_out_fraction: share of the images, chosen at random but always the same, that is kept for
            measuring and never trained on.
    """

    def __init__(
        self,
        path: Path,
        size: Size | None = None,
        fit: Fit = "crop",
        channels: Channels | None = None,
        held_out_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        self.path = path.expanduser()
        self.files, self._notes = _image_files(self.path)
        self._remarks: Remarks = defaultdict(set)
        classes = _classes(self.path, self.files, self._notes)
        self.num_classes, self.class_names = len(classes) or None, tuple(classes) or None
        number = {name: index for index, name in enumerate(classes)}
        self._labels = torch.tensor([number[file.parts[0]] for file in self.files]) if classes else None
        everything = torch.arange(len(self.files))
        held_out = int(held_out_fraction * len(self.files))
        by_chance = permutation(0, len(self.files))
        self._rows, self._held_out = by_chance[held_out:].sort().values, by_chance[:held_out].sort().values
        self.canvas = pictures.canvas_for(self._encoded(everything), size, fit, channels)
        self.image_shape = self.canvas.shape

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        images = pictures.decode(self.encoded(indices), self.canvas, self._remarks)
        return images, None if self._labels is None else self._labels[self._rows[indices]]

    def check(self, indices: Tensor) -> None:
        pictures.check(self.encoded(indices), self.canvas, self._remarks)

    def encoded(self, indices: Tensor) -> Iterator[Encoded]:
        """The files of some pictures."""
        return self._encoded(self._rows[indices])

    def all_labels(self) -> Tensor | None:
        return None if self._labels is None else self._labels[self._rows]

    def notes(self) -> Sequence[str]:
        return [*self._notes, *(f"{what}: {listed(sorted(names))}" for what, names in self._remarks.items())]

    def fingerprint(self) -> Mapping[str, str]:
        files = [self.files[row] for row in self._rows.tolist()]
        facts = [pictures.size_and_time(self.path / file) for file in files]
        sizes = [[str(file), size] for file, (size, _) in zip(files, facts, strict=True)]
        return {"sizes": digest(sizes), "times": digest([time for _, time in facts])}

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


class Listing(NamedTuple):
    """The files below a folder with certain suffixes, sorted relative paths, and what lies there besides."""

    files: list[Path]
    links: list[str]  # folders that are links, which are not followed: they may lead in a circle
    hidden: int
    others: Counter[str]  # files with other suffixes, by suffix

    def linked(self) -> list[str]:
        """The note on folders that are links, if there are any."""
        if not self.links:
            return []
        folders = counted(len(self.links), "linked folder")
        return [f"{folders} left out, links are not followed: {listed(self.links)}"]


def find(folder: Path, suffixes: Collection[str]) -> Listing:
    """Look for files with these suffixes in a folder and all below it.

    Raises:
        DataError: if a folder cannot be looked into.
    """
    files: list[Path] = []
    links: list[str] = []
    hidden, others = 0, Counter[str]()
    for here, folders, names in os.walk(folder, onerror=_refuse):
        place = Path(here).relative_to(folder)
        hidden += sum(name.startswith(".") for name in [*folders, *names])
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += [str(place / name) for name in folders if os.path.islink(os.path.join(here, name))]
        for file in (place / name for name in names if not name.startswith(".")):
            if file.suffix.lower() in suffixes:
                files.append(file)
            else:
                others[file.suffix.lower() or "no suffix"] += 1
    return Listing(sorted(files), sorted(links), hidden, others)


def _image_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Paths below the folder, sorted, and what was left out; DataError if it is missing or has none."""
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {state}: it must be a folder of images.", option="path")
    listing = find(folder, SUFFIXES)
    notes = listing.linked()
    if listing.others:
        kinds = listed([f"{kind} {number:,}" for kind, number in listing.others.most_common()])
        several = counted(listing.others.total(), "file")
        notes.append(f"{several} without the suffix of an image left out: {kinds}")
    if listing.hidden:
        hidden = counted(listing.hidden, "hidden file or folder", "hidden files and folders")
        notes.append(f"{hidden} left out")
    if not listing.files:
        kinds = ", ".join(SUFFIXES) + (f" ({'; '.join(notes)})" if notes else "")
        text = f"{folder} has no images: neither it nor a sub-folder holds a file in {kinds}."
        raise DataError(text, option="path")
    return listing.files, notes


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be looked into: {error.strerror}") from error


def _classes(folder: Path, files: list[Path], notes: list[str]) -> list[str]:
    """The sub-folders that are classes; none if images lie beside them, or there is only one.

    Adds to the notes why sub-folders are no classes, or which are empty.
    """
    beside = [str(file) for file in files if len(file.parts) == 1]
    names = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    if beside:
        if len(names) > 1:
            lie = f"{counted(len(beside), 'image')} beside the sub-folders ({listed(beside)})"
            notes.append(f"no classes, because of {lie}")
        return []
    if SPLITS.issuperset(name.lower() for name in names) and len(names) > 1:
        raise DataError(
            f"{folder} has the sub-folders {' and '.join(names)}, which are splits and not classes: "
            'set path to one of them, or type = "datasets", which knows splits.',
            option="path",
        )
    if len(names) < 2:
        return []
    every = {entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)}
    if empty := sorted(name for name in every - set(names) if not name.startswith(".")):
        notes.append(f"{counted(len(empty), 'sub-folder')} without images, no class: {listed(empty)}")
    return names
