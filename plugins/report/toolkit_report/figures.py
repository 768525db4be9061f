"""Pictures of a report, and how its plots look."""

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from toolkit import to_grid
from toolkit.commands import RunError, new_file, printable, writing
from toolkit_report.chains import Strip
from toolkit_report.forms import Form, draw, reach, slices, square

# Okabe & Ito (2008), which people with any kind of colour vision tell apart; without its pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
GENERATOR = "diffusion-toolkit report"  # pages and pictures name it as their generator
SIGNED = f"Software\0{GENERATOR}".encode()  # as a PNG stores it
DPI = 200  # twice what a page shows, for print and for dense screens
NARROW = 3.6  # inches of a picture for a telephone, whose pages are 390 CSS pixels wide
ABREAST = 4  # runs in a row of the picture of all
GREY = "#bbbbbb"  # of what is drawn behind
HELD_OUT = "held out"  # marks the lines of a figure that are on held-out data
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "mathtext.fontset": "cm",
}
ON_ANY_GROUND: dict[Any, Any] = {  # a contrast of 4.2 to white as well as to a dark page
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), "#7a7a7a"),
    "figure.facecolor": "none",
}


@dataclass(frozen=True)
class Style:
    """The look of one run in every plot."""

    name: str
    colour: str
    marker: str
    dash: str


class Kind(Enum):
    """How a page shows a picture where its reader prefers dark pages."""

    PLOT = "plot"  # dark ink on white: inverted
    STRIP = "strip"  # pictures with labels that are legible on white and on black, without a ground
    PIXELS = "pixels"  # nothing but pictures, whose pixels are shown as such, and not smoothed


@dataclass(frozen=True)
class Picture:
    """A PNG with a name for its file, its width on a page in CSS pixels, and what it shows.

    `narrow` is the same for a telephone, `NARROW` inches wide.
    """

    name: str
    png: bytes
    width: int
    shows: str
    kind: Kind = Kind.PLOT
    narrow: bytes | None = None


def write(pictures: Sequence[Picture], folder: Path) -> None:
    """Write pictures as files, numbered where names are equal; those of an earlier report are replaced.

    Raises:
        RunError: if a file that is not a report's is in the way, or they cannot be written.
    """
    paths: dict[Path, Picture] = {}
    taken: set[str] = set()
    for one in pictures:
        numbered = (one.name if i == 1 else f"{one.name}-{i}" for i in itertools.count(1))
        name = next(name for name in numbered if name.casefold() not in taken)
        taken.add(name.casefold())  # some file systems ignore case
        paths[folder / f"{name}.png"] = one
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [path for path in paths if path.exists() and SIGNED not in path.read_bytes()]
        if foreign:
            raise RunError(
                f"--png {foreign[0]}: is already there, and is not from a report: choose another folder"
            )
        for path, one in paths.items():
            with new_file(path) as temporary:
                temporary.write_bytes(one.png)


def styles(names: Sequence[str]) -> list[Style]:
    """A style for each run; when the colours are used up, the dashes change."""
    n = len(COLOURS)
    return [
        Style(name, COLOURS[i % n], MARKERS[(i + i // n) % n], DASHES[i // n % len(DASHES)])
        for i, name in enumerate(names)
    ]


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; within `matplotlib.rc_context(LOOK)`."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def literal(name: str) -> str:
    """A name of a run, a loss or a score for a figure, in which $...$ would be mathematics."""
    return printable(name).replace("$", "\\$")


def picture(draw: Callable[[bool], Figure], name: str, shows: str, kind: Kind = Kind.PLOT) -> Picture:
    """What `draw` makes, for a screen and, called with True, for a telephone."""
    look = LOOK | (ON_ANY_GROUND if kind is Kind.STRIP else {})
    with matplotlib.rc_context(look):
        wide, narrow = draw(False), draw(True)
        return Picture(name, _png(wide), round(wide.get_figwidth() * 96), shows, kind, _png(narrow))


def _png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": GENERATOR})
    return buffer.getvalue()


def legend(drawn: Figure, axes: Axes, narrow: bool) -> None:
    """Add one legend for all panels, where it covers nothing: beside them, or above them in a narrow one."""
    handles, labels = axes.get_legend_handles_labels()
    if any(line.get_gid() == HELD_OUT for line in axes.lines):
        handles.append(Line2D([], [], color="#888888", marker="o", markeredgecolor="white", linestyle="none"))
        labels.append("on held-out data")
    drawn.legend(handles, labels, loc="outside upper left" if narrow else "outside right upper")


def grid(samples: Tensor, form: Form, name: str, shows: str, look: Style, real: Tensor | None) -> Picture:
    """Samples (n, ...) side by side; points and numbers together, over those of the data."""
    if form.pixels:
        return as_it_is(_sheet(samples, form), name, shows)

    def drawn(narrow: bool) -> Figure:
        drawing = figure(NARROW if narrow else 3.6, NARROW if narrow else 3.4)
        _samples(drawing, samples, form, look, real)
        return drawing

    return picture(drawn, name, shows)


def as_it_is(image: Image, name: str, shows: str) -> Picture:
    """An image, pixel by pixel."""
    buffer, signed = io.BytesIO(), PngInfo()
    signed.add_text("Software", GENERATOR)
    image.save(buffer, format="PNG", pnginfo=signed)
    return Picture(name, buffer.getvalue(), image.width, shows, Kind.PIXELS)


def _sheet(samples: Tensor, form: Form) -> Image:
    """Pictures side by side; of slices, a row a sample."""
    if form is Form.PICTURE:
        return to_grid(samples)
    planes = slices(samples, samples)
    return to_grid(planes.flatten(0, 1), columns=planes.shape[1])


def _samples(
    place: Figure | SubFigure, samples: Tensor, form: Form, look: Style, real: Tensor | None
) -> None:
    """Samples in a figure or a part of one."""
    if form is Form.LINES:
        columns = math.ceil(math.sqrt(len(samples)))
        cells = place.subplots(math.ceil(len(samples) / columns), columns, squeeze=False).flat
        for cell, one in itertools.zip_longest(cells, samples):
            if one is None:
                cell.set_axis_off()
            else:
                draw(cell, form, one, samples, look.colour)
        return
    axes = place.subplots()
    if form.pixels:
        axes.imshow(_sheet(samples, form), cmap="gray", vmin=0, vmax=255, interpolation="none")
        axes.set_axis_off()
    elif form is Form.NUMBERS:
        span = reach(samples if real is None else real)
        for values, colour in ((real, GREY), (samples, look.colour)):
            if values is not None:
                finite = values[values.isfinite()]
                axes.hist(finite, bins=40, range=span, density=True, color=colour, alpha=0.6)
        axes.set_xlabel("$x$")
    else:
        if real is not None:
            axes.scatter(real[:, 0], real[:, 1], s=5, color=GREY, linewidths=0)
        axes.scatter(samples[:, 0], samples[:, 1], s=2, color=look.colour, linewidths=0)
        square(axes, samples if real is None else real)
        axes.set_xlabel("$x_1$")
        axes.set_ylabel("$x_2$")


@dataclass(frozen=True)
class Panel:
    """The samples of one run in a picture of all runs; `words` stand below its name."""

    samples: Tensor
    form: Form
    look: Style
    real: Tensor | None
    words: str


def side_by_side(panels: Sequence[Panel], caveat: str) -> Picture:
    """The samples of all runs in one picture, for a slide, with a caveat about the scores below them."""
    columns = min(len(panels), ABREAST)
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(LOOK):
        drawn = figure(3.2 * columns, 3.6 * rows + 0.3 * bool(caveat))
        whole: Figure | SubFigure = drawn
        if caveat:
            whole, below = np.ravel(drawn.subfigures(2, 1, squeeze=False, height_ratios=(3.6 * rows, 0.3)))
            below.text(0.5, 0.5, caveat, ha="center", va="center", fontsize=8, color="#666666")
        places = np.ravel(whole.subfigures(rows, columns, squeeze=False))
        for place, panel in zip(places, panels, strict=False):
            title = place.suptitle(literal(panel.look.name), fontsize=12, fontweight="bold")
            title.set_color(panel.look.colour)
            place.supxlabel(literal(panel.words), fontsize=10)
            _samples(place, panel.samples, panel.form, panel.look, panel.real)
        names = ", ".join(panel.look.name for panel in panels)
        return Picture("side-by-side", _png(drawn), round(drawn.get_figwidth() * 96), f"Samples of {names}")


def strip(chain: Strip, form: Form, name: str, shows: str, look: Style) -> Picture:
    """Stages of a chain in a row, with their timesteps above them; every other one in a narrow picture."""

    def drawn(narrow: bool) -> Figure:
        every = 2 if narrow and len(chain.titles) > 5 else 1
        titles = chain.titles[::-1][::every][::-1]  # the last is the sample
        count, left = len(titles), 1.05
        cell = (NARROW - left) / count if narrow else 0.95
        drawing = Figure(figsize=(left + cell * count, 0.3 + cell * len(chain.rows)), dpi=DPI)
        top = 1 - 0.3 / drawing.get_figheight()
        cells = drawing.subplots(len(chain.rows), count, squeeze=False, gridspec_kw={
            "left": left / drawing.get_figwidth(), "right": 0.999, "top": top, "bottom": 0.005,
            "wspace": 0.05, "hspace": 0.05,
        })  # fmt: skip
        for axes, (label, stages) in zip(cells, chain.rows, strict=True):
            for place, stage in zip(axes, stages.flip(0)[::every].flip(0), strict=True):
                draw(place, form, stage, chain.rows[0][1], look.colour)
            axes[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        for place, title in zip(cells[0], titles, strict=True):
            place.set_title(title, fontsize=6.5 if narrow else 9, pad=4)
        return drawing

    return picture(drawn, name, shows, Kind.STRIP if form.pixels else Kind.PLOT)
