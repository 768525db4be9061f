"""Pictures of a study: quality against sampling time, a dot for each seed, and samples."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from safetensors.numpy import load_file

from toolkit.commands import new_file
from toolkit_study.jobs import Folder
from toolkit_study.results import Line, Quantity, Results, estimate

matplotlib.use("Agg")
from matplotlib import pyplot

DOT, MEAN = "#0072B2", "#D55E00"
WORDS = {"higher": "higher is better", "lower": "lower is better", None: ""}
TILES = 12  # samples of a row that are shown


def draw(results: Results, folder: Folder) -> list[tuple[str, str]]:
    """Write the pictures for which there are numbers; returns their titles and file names."""
    ranking = [quantity for quantity in results.quantities if quantity.better]
    timed = [line for line in results.lines if line.rate is not None]
    tiles = {line.row.title: found for line in results.lines if (found := _samples(line, folder)) is not None}
    wanted: list[tuple[str, str, Callable[[Path], None]]] = []
    if ranking and len({line.calls for line in timed}) > 1:
        wanted.append(("Quality against sampling time", "speed.png", partial(_speed, timed, ranking)))
    if ranking and results.lines:
        wanted.append(("Every seed", "seeds.png", partial(_seeds, list(results.lines), ranking)))
    if tiles:
        wanted.append(("The first samples of the first seed", "samples.png", partial(_sheet, tiles)))
    for _, name, make in wanted:
        with new_file(folder.path / name) as temporary:
            make(temporary)
    return [(title, name) for title, name, _ in wanted]


def _speed(lines: list[Line], ranking: list[Quantity], path: Path) -> None:
    columns = min(len(ranking), 2)
    rows = -(-len(ranking) // columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(5.4 * columns + 3.4, 4.4 * rows), layout="constrained", squeeze=False
    )
    for panel, quantity in zip(panels.flat, ranking, strict=False):
        for number, line in enumerate(lines, 1):
            value = estimate(line.numbers(quantity.name))
            if value is None or line.rate is None:
                continue
            x = 1000 / line.rate.mean
            label = f"{number}  {line.row.title} ({line.calls:,})"
            panel.errorbar(x, value.mean, yerr=value.error, fmt="none", color=DOT, capsize=3)
            panel.plot(x, value.mean, "o", color=DOT, markersize=13, label=label)
            panel.annotate(str(number), (x, value.mean), ha="center", va="center", color="white", fontsize=7)
        means = [mean for line in lines if (mean := line.mean(quantity.name)) is not None]
        if min(means, default=0) > 0 and max(means) > 20 * min(means):
            panel.set_yscale("log")
        panel.set(
            xscale="log", xlabel="time of a sample, ms", ylabel=f"{quantity.name}, {WORDS[quantity.better]}"
        )
        panel.margins(0.08)
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(ranking) :]:
        panel.set_axis_off()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", handlelength=0, markerscale=0, fontsize=8, frameon=False
    )
    figure.suptitle("Quality against sampling time: network calls in brackets, bars are standard errors")
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)


def _seeds(lines: list[Line], ranking: list[Quantity], path: Path) -> None:
    figure, panels = pyplot.subplots(
        1, len(ranking), figsize=(2.2 + 2.6 * len(ranking), 1.2 + 0.3 * len(lines)), sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for panel, quantity in zip(panels.flat, ranking, strict=True):
        for y, line in enumerate(reversed(lines)):
            numbers = list(line.numbers(quantity.name).values())
            panel.scatter(numbers, [y] * len(numbers), s=18, color=DOT, zorder=2)
            if len(numbers) > 1:
                panel.vlines(sum(numbers) / len(numbers), y - 0.3, y + 0.3, color=MEAN)
        panel.set_xlabel(f"{quantity.name}\n{WORDS[quantity.better]}")
        panel.grid(axis="x", alpha=0.3)
    panels.flat[0].set_yticks(range(len(lines)), [line.row.title for line in reversed(lines)])
    figure.suptitle("A dot is a seed, a bar their mean")
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)


def _samples(line: Line, folder: Folder) -> np.ndarray | None:
    """The first scored samples of the first seed, (n, H, W) or (n, H, W, 3); None if they are no pictures."""
    kept = () if line.samples is None else (folder.path / line.samples).glob("samples-*/000000.safetensors")
    first = next(iter(kept), None)
    pictures = None if first is None else load_file(first)["samples"][:TILES]
    if (
        pictures is None
        or pictures.dtype != np.uint8
        or pictures.ndim != 4
        or pictures.shape[1] not in (1, 3)
    ):
        return None
    return pictures[:, 0] if pictures.shape[1] == 1 else pictures.transpose(0, 2, 3, 1)


def _sheet(tiles: dict[str, np.ndarray], path: Path) -> None:
    figure, panels = pyplot.subplots(
        len(tiles), TILES, figsize=(2.6 + 0.5 * TILES, 0.54 * len(tiles) + 0.2), squeeze=False
    )
    figure.subplots_adjust(left=0.3, right=0.99, top=0.99, bottom=0.01, wspace=0.04, hspace=0.04)
    for row, (title, pictures) in zip(panels, tiles.items(), strict=True):
        for panel in row:
            panel.set_axis_off()
        for panel, picture in zip(row, pictures, strict=False):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        row[0].text(-0.15, 0.5, title, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)
