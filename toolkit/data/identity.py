"""What a data set is known by: when a run is resumed, and by its user."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from toolkit.data.batches import Batches
from toolkit.data.reading import FEW
from toolkit.data.source import DataSource, counted, listed, refuse_strange_labels
from toolkit.errors import DataError
from toolkit.files import digest

NARROW = 25  # of 255 levels, a tenth
SHOWN = 10  # classes


def identity(source: DataSource, batches: Batches, *, skips: bool) -> dict[str, Any]:
    """Facts that identify a data set wherever it lies; None where a fact is not known without reading it all.

    Args:
        source: the data.
        batches: of the same data.
        skips: whether examples may get lost.
    """
    images, labels = batches.at_hand()
    first = [part[:FEW] for part in (images, labels) if part is not None]
    whole = [part for part in (images, labels) if part is not None] if len(images) == len(source) else None
    known = source.fingerprint()
    return {
        "examples": len(source),
        "shape": list(source.image_shape),
        "begins_with": digest(*first),
        "content": None if whole is None else digest(*whole),
        "sizes": known.get("sizes"),
        "times": known.get("times"),
        "skips": skips,
    }


KNOWN_BY = ("examples", "shape", "begins_with", "content", "sizes", "times", "skips")
DIFFERENCES = {
    "begins_with": "its first examples differ",
    "content": "an example or a label differs",
    "sizes": "its files are others, or of other sizes",
}


def changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first fact of a checkpoint that is another now; None if all agree.

    Content that is known on both sides decides, whatever the sizes of files. Where unreadable examples are
    skipped, a set may also lose them.
    """
    uncompared = {"skips", "times"}
    uncompared |= {name for name in ("content", "sizes") if None in (then.get(name), now.get(name))}
    if "content" not in uncompared:
        uncompared.add("sizes")
    if _lost(then, now):
        uncompared |= {"examples", *DIFFERENCES}
    differing = [name for name, value in now.items() if name not in uncompared and then.get(name) != value]
    if not differing:
        return None
    name = differing[0]
    difference = f"made with {name} = {then.get(name)}, not {now[name]}"
    if name in DIFFERENCES:
        difference = f"the data has changed since: {DIFFERENCES[name]}"
    return difference + (". If that is meant, allow it: --change data" if name in KNOWN_BY else "")


def remarks(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What a user should know of data that is taken for the same."""
    compared = None not in (then.get("content"), now.get("content"))
    times = {then.get("times"), now.get("times")} - {None}
    if lost := _lost(then, now):
        yield f"the data has lost {lost} of {then['examples']:,} examples: their order is another from now on"
    elif not compared and len(times) > 1:
        yield "files of the data were written since the checkpoint; only their number and sizes were compared"


def _lost(then: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """How many examples there are fewer, if some may get lost; else 0."""
    may = then.get("skips") or now.get("skips")
    before, after = then.get("examples"), now.get("examples")
    return max(0, before - after) if may and isinstance(before, int) and after is not None else 0


def summary(source: DataSource, batches: Batches, *, measured: bool) -> Iterator[str]:
    """What a source found and what it left out, a line each.

    Args:
        source: the data.
        batches: of the same data, or of its first examples.
        measured: whether the held-out examples will be used.

    Raises:
        DataError: if a label, of held-out examples that will be used too, is not one of the classes.
    """
    images, labels = batches.at_hand()
    every = source.all_labels()
    refuse_strange_labels(labels if every is None else every, source.num_classes)
    kept = ""
    try:
        held_out = source.held_out()
        if held_out is not None:
            refuse_strange_labels(held_out.all_labels(), source.num_classes)
            kept = f", {len(held_out):,} more held out"
    except DataError as error:
        if measured:
            raise
        kept = f", none held out ({error})"
    shape, whole = "x".join(map(str, source.image_shape)), len(images) == len(source)
    low, high = (value.item() for value in images.aminmax())
    among = "" if whole else f" in the first {len(images):,}"
    number, classless = counted(len(source), "example"), "" if source.num_classes else " without classes"
    yield f"data: {number} of {shape}{classless}{kept}; values {low:.4g} to {high:.4g}{among}"
    if not images.is_floating_point() and high - low < NARROW:
        yield (
            "data: these values take less than a tenth of 0 to 255, the range of a file. Scale them "
            "if they were meant to fill it: 12 bits in a file of 16 do not"
        )
    if source.num_classes is not None:
        known = every if every is not None or not whole else labels
        yield f"data: {_classes(source.num_classes, source.class_names, known)}"
    yield from (f"data: {note}" for note in source.notes())
    if batches.skipped:
        skipped, names = len(batches.skipped), listed(batches.skipped)
        yield f"data: {skipped:,} cannot be read, and others stand in their places: {names}"


def _classes(num: int, names: tuple[str, ...] | None, labels: Tensor | None) -> str:
    """How many classes there are, and how many examples each has, as far as the labels are known."""
    if labels is None:
        return f"{num:,} classes" + (f": {listed(names, SHOWN)}" if names else "")
    counts = dict(zip(*(part.tolist() for part in labels.unique(return_counts=True)), strict=True))
    each = [f"{names[i] if names else i} ({count:,})" for i, count in counts.items()]
    without = f", {num - len(counts):,} of them without an example" if len(counts) < num else ""
    return f"{num:,} classes{without}: {listed(each, SHOWN)}"
