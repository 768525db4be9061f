"""Pictures of a report, and how its plots look."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from toolkit import to_grid, to_uint8
from toolkit.commands import RunError, new_file, printable, writing
from toolkit_report.chains import Strip

# Okabe & Ito (2008), which people with any kind of colour vision tell apart; without its pale yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
GENERATOR = "diffusion-toolkit report"  # pages and pictures name it as their generator
SIGNED = f"Software\0{GENERATOR}".encode()  # as a PNG stores it
DPI = 200  # twice what a page shows, for print and for dense screens
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
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


@dataclass(frozen=True)
class Style:
    """The look of one run in every plot."""

    name: str
    colour: str
    marker: str
    dash: str


@dataclass(frozen=True)
class Picture:
    """A PNG with a name for its file, its width on a page in CSS pixels, and what it shows.

    `pixels` means that pixels are shown as such, and not smoothed.
    """

    name: str
    png: bytes
    width: int
    shows: str
    pixels: bool = False


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


def picture(drawn: Figure, name: str, shows: str) -> Picture:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", facecolor="white", metadata={"Software": GENERATOR})
    return Picture(name, buffer.getvalue(), round(drawn.get_figwidth() * 96), shows)


def legend(drawn: Figure, axes: Axes) -> None:
    """Add one legend for all panels, beside them, where it covers nothing."""
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside right upper")


def grid(samples: Tensor, name: str, shows: str, look: Style, real: Tensor | None) -> Picture:
    """Samples (n, C, H, W) side by side, or points (n, 2) over those of the data."""
    if samples.ndim != 4:
        return _cloud(samples, name, shows, look, real)
    buffer = io.BytesIO()
    image = to_grid(samples)
    signed = PngInfo()
    signed.add_text("Software", GENERATOR)
    image.save(buffer, format="PNG", pnginfo=signed)
    return Picture(name, buffer.getvalue(), image.width, shows, pixels=True)


def _cloud(points: Tensor, name: str, shows: str, look: Style, real: Tensor | None) -> Picture:
    with matplotlib.rc_context(LOOK):
        drawn = figure(3.2, 3.2)
        axes = drawn.subplots()
        if real is not None:
            axes.scatter(real[:, 0], real[:, 1], s=5, color="#bbbbbb", linewidths=0)
        axes.scatter(points[:, 0], points[:, 1], s=2, color=look.colour, linewidths=0)
        _square(axes, points if real is None else real)
        axes.set_xlabel("$x_1$")
        axes.set_ylabel("$x_2$")
        return picture(drawn, name, shows)


def _square(axes: Axes, points: Tensor) -> None:
    finite = points[points.isfinite()].abs()
    reach = 1.25 * float(finite.quantile(0.999)) if len(finite) else 1.0
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def strip(chain: Strip, name: str, shows: str, look: Style) -> Picture:
    """Stages of a chain in a row, with their timesteps above them."""
    count, cell, left = len(chain.titles), 0.95, 1.05
    with matplotlib.rc_context(LOOK):
        drawn = Figure(figsize=(left + cell * count, 0.3 + cell * len(chain.rows)), dpi=DPI)
        top = 1 - 0.3 / drawn.get_figheight()
        cells = drawn.subplots(len(chain.rows), count, squeeze=False, gridspec_kw={
            "left": left / drawn.get_figwidth(), "right": 0.999, "top": top, "bottom": 0.005,
            "wspace": 0.05, "hspace": 0.05,
        })  # fmt: skip
        for axes, (label, stages) in zip(cells, chain.rows, strict=True):
            for place, stage in zip(axes, stages, strict=True):
                _stage(place, stage, chain.rows[0][1], look)
            axes[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
        for place, title in zip(cells[0], chain.titles, strict=True):
            place.set_title(title, fontsize=8, pad=4)
        return picture(drawn, name, shows)


def _stage(axes: Axes, stage: Tensor, stages: Tensor, look: Style) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    if stage.ndim == 2:  # points, not a picture
        axes.scatter(stage[:, 0], stage[:, 1], s=0.8, color=look.colour, linewidths=0)
        _square(axes, stages)
        return
    pixels = to_uint8(stage).permute(1, 2, 0).numpy()
    axes.imshow(pixels if pixels.shape[2] in (3, 4) else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.spines[:].set_visible(False)
