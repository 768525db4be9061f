"""Curves and scatter plots of runs: losses, and quality against what it costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

from toolkit.commands import RunSummary
from toolkit_report.facts import number, time_unit
from toolkit_report.figures import HELD_OUT, NARROW, Picture, Style, figure, legend, literal, picture
from toolkit_report.ranking import Column

MANY = 200  # a curve of so many records or more is smoothed
FEW = 10  # of so few records each is marked
WINDOW = 25  # records in the mean of a smoothed value


@dataclass(frozen=True)
class Axis:
    """An axis that quality is plotted against; `of` gives the number of a run, or None."""

    title: str
    of: Callable[[int], float | None]
    log: bool = False


def loss_names(runs: Sequence[RunSummary]) -> list[str]:
    """The losses that are recorded while training, "<turn>/loss", in the order in which they appear."""
    names = dict.fromkeys(name for run in runs for record in run.records for name in record)
    return [name for name in names if name.endswith("/loss") and not name.startswith("held_out/")]


def losses(runs: Sequence[RunSummary], looks: Sequence[Style], name: str, file: str) -> Picture:
    """One loss of runs that all have it, against steps, images and time."""
    unit, seconds = time_unit([run.train_seconds or 0.0 for run in runs])
    panels = (
        ("step", "step", 1.0),
        ("images", "training images", 1.0),
        ("seconds", f"time ({unit})", seconds),
    )

    def drawn(narrow: bool) -> Figure:
        drawing = figure(NARROW, 6.6) if narrow else figure(10.4, 2.7)
        axes = drawing.subplots(*((3, 1) if narrow else (1, 3)), sharey=True)
        for place, (key, title, scale) in zip(axes, panels, strict=True):
            for run, look in zip(runs, looks, strict=True):
                _curve(place, run, look, name, key, scale)
            place.set_xlabel(title)
            if key != "seconds":
                place.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0].set_ylabel(literal(name))
        if spans_decades([y for run in runs for _, y in series(run, name, "step")]):
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0].yaxis.set_major_formatter("{x:g}")
            axes[0].yaxis.set_minor_formatter(NullFormatter())
        legend(drawing, axes[0], narrow)
        return drawing

    return picture(drawn, file, f"{name} against steps, images and time")


def _curve(axes: Axes, run: RunSummary, look: Style, name: str, key: str, scale: float) -> None:
    points = [(x / scale, y) for x, y in series(run, name, key)]
    if not points:
        return
    x, y = zip(*points, strict=True)
    style: dict[str, Any] = {"color": look.colour, "linestyle": look.dash}
    if len(points) >= MANY:
        axes.plot(x, y, color=look.colour, linewidth=0.4, alpha=0.3)
        half = WINDOW // 2
        y = tuple(sum(part := y[max(0, i - half) : i + half + 1]) / len(part) for i in range(len(y)))
    style["marker"] = "." if len(points) < FEW else ""
    axes.plot(x, y, linewidth=1.3, label=literal(look.name), **style)
    held_out = series(run, f"held_out/{name}", key)
    if held_out:
        x, y = zip(*((x / scale, y) for x, y in held_out), strict=True)
        axes.plot(
            x, y, look.marker, color=look.colour, markersize=6, markeredgecolor="white", gid=HELD_OUT
        )  # fmt: skip


def series(run: RunSummary, name: str, key: str) -> list[tuple[float, float]]:
    """(x, value) of all records in which both are finite.

    Time continues where a run was resumed; measures, which record no time, take that of the record before.
    """
    points, before, last = [], 0.0, 0.0
    for record in run.records:
        clock = number(record, "seconds")
        if clock is not None:
            before, last = (before + last, clock) if clock < last else (before, clock)
        x, y = before + last if key == "seconds" else number(record, key), number(record, name)
        if x is not None and y is not None:
            points.append((x, y))
    return points


def quality(
    column: Column, axes: Sequence[Axis], looks: Sequence[Style], name: str, shows: str
) -> tuple[Picture | None, list[str]]:
    """A picture of a score against each axis for which a run has a number; and the other axes' titles."""
    numbers = {axis.title: _pairs(column, axis, len(looks)) for axis in axes}
    drawable, missing = [a for a in axes if numbers[a.title]], [a.title for a in axes if not numbers[a.title]]
    if not drawable:
        return None, missing

    def drawn(narrow: bool) -> Figure:
        n = len(drawable)
        drawing = figure(NARROW, 0.4 + 2.4 * n) if narrow else figure(2.4 + 2.9 * n, 2.9)
        panels = np.ravel(drawing.subplots(*((n, 1) if narrow else (1, n)), sharey=True, squeeze=False))
        for panel, axis in zip(panels, drawable, strict=True):
            for run, (x, y) in numbers[axis.title].items():
                look, mark = looks[run], column.mark(run)
                panel.plot(
                    x, y, look.marker, color=look.colour, label=literal(look.name), markersize=8,
                    markerfacecolor="white" if mark else look.colour, linestyle="none",
                )  # fmt: skip
                if mark:
                    panel.annotate(f"({mark})", (x, y), xytext=(7, 4), textcoords="offset points", fontsize=8)
            panel.set_xlabel(axis.title)
            panel.margins(0.15)
            if axis.log:
                _log(panel, [x for x, _ in numbers[axis.title].values()])
            else:
                panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panels[0].set_ylabel(f"{literal(column.name)} ({column.better} is better)")
        legend(drawing, max(panels, key=lambda panel: len(panel.lines)), narrow)
        return drawing

    return picture(drawn, name, shows), missing


def _pairs(column: Column, axis: Axis, runs: int) -> dict[int, tuple[float, float]]:
    pairs = {}
    for run in range(runs):
        x, y = axis.of(run), column.value(run)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            pairs[run] = (x, y)
    return pairs


def _log(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis that covers whole decades, so that it has labels."""
    axes.set_xscale("log")
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    axes.set_xlim(10.0**low / 1.3, 10.0 ** max(high, low + 1) * 1.3)
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    axes.xaxis.set_minor_formatter(NullFormatter())


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows more: all are positive, and the largest is 20 times the smallest."""
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)
