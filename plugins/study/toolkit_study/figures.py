"""Pictures of a study: quality against sampling time, and a dot for each seed."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from toolkit_study.plan import Study
from toolkit_study.results import Quantity, Results, estimate

DOT, MEAN = "#0072B2", "#D55E00"
WORDS = {"higher": "higher is better", "lower": "lower is better", None: ""}


def draw(study: Study, results: Results, folder: Path) -> list[tuple[str, str]]:
    """Write the pictures; returns their titles and file names."""
    ranking = [quantity for quantity in results.quantities if quantity.better]
    if not ranking or not results.lines:
        return []
    drawn = [("Quality against sampling time", "speed.png", lambda path: _speed(results, ranking, path))]
    drawn += [("Every seed", "seeds.png", lambda path: _seeds(results, ranking, path))]
    made: list[tuple[str, str]] = []
    for title, name, make in drawn:
        if _worth(name, results):
            _write(make, folder / name)
            made.append((title, name))
    return made


def _worth(name: str, results: Results) -> bool:
    return name != "speed.png" or len({line.calls for line in results.lines}) > 1


def _write(make: Callable[[Path], None], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp.png")
    make(temporary)
    temporary.replace(path)


def _speed(results: Results, ranking: list[Quantity], path: Path) -> None:
    columns = min(len(ranking), 2)
    rows = -(-len(ranking) // columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(6.4 * columns, 4.6 * rows), layout="constrained", squeeze=False
    )
    for panel, quantity in zip(panels.flat, ranking, strict=False):
        for line in results.lines:
            value = estimate(line.numbers(quantity.name))
            if value is None or line.rate is None:
                continue
            x = 1000 / line.rate.mean
            panel.errorbar(x, value.mean, yerr=value.error, fmt="o", color=DOT, capsize=3)
            panel.annotate(
                f"{line.row.title} ({line.calls:,})",
                (x, value.mean),
                (5, 4),
                textcoords="offset points",
                fontsize=7,
            )
        panel.set(
            xscale="log", xlabel="time of a sample, ms", ylabel=f"{quantity.name}, {WORDS[quantity.better]}"
        )
        panel.margins(x=0.2)
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(ranking) :]:
        panel.set_axis_off()
    figure.suptitle(
        "Quality against sampling time; network calls in brackets, bars are standard errors over seeds"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _seeds(results: Results, ranking: list[Quantity], path: Path) -> None:
    lines = list(results.lines)[::-1]
    figure, panels = pyplot.subplots(
        1, len(ranking), figsize=(2.2 + 2.6 * len(ranking), 1.2 + 0.3 * len(lines)), sharey=True,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for panel, quantity in zip(panels.flat, ranking, strict=True):
        for y, line in enumerate(lines):
            numbers = list(line.numbers(quantity.name).values())
            panel.scatter(numbers, [y] * len(numbers), s=18, color=DOT, zorder=2)
            if len(numbers) > 1:
                panel.vlines(sum(numbers) / len(numbers), y - 0.3, y + 0.3, color=MEAN)
        panel.set_xlabel(f"{quantity.name}\n{WORDS[quantity.better]}")
        panel.grid(axis="x", alpha=0.3)
    panels.flat[0].set_yticks(range(len(lines)), [line.row.title for line in lines])
    figure.suptitle("A dot is a seed, a bar their mean")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
