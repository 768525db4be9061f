"""The table of runs at the head of a report: texts, and the numbers to sort by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.commands import RunSummary
from toolkit_report import facts
from toolkit_report.ranking import Column


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it stands for, if any."""

    text: str
    number: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Heads with a unit or another remark below them, and a row of cells for each run."""

    heads: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]

    @property
    def numeric(self) -> set[int]:
        """Columns that hold numbers."""
        return {i for row in self.rows for i, cell in enumerate(row) if cell.number is not None}


def summary_table(
    runs: Sequence[RunSummary], score_columns: Sequence[Column], parameters: Mapping[int, int]
) -> Table:
    """All runs; columns for which no run has anything are left out."""
    columns = [
        (("objective", ""), [Cell(str(run.recipe.get("objective", {}).get("type", ""))) for run in runs]),
        (("data", ""), [Cell(_data(run)) for run in runs]),
        (("sampled", "for the scores"), [Cell(_sampled(run)) for run in runs]),
        *(
            ((one.name, _remark(one)), [_score(one, place) for place in range(len(runs))])
            for one in score_columns
        ),
        (("parameters", "sampled network"), [_count(parameters.get(place)) for place in range(len(runs))]),
        (("steps", ""), [_count(run.step) for run in runs]),
        (("training time", ""), [_time(facts.train_seconds(run)) for run in runs]),
        (("training speed", "images/s"), [_number(facts.train_speed(run)) for run in runs]),
        (("network calls", "per sample"), [_count(facts.network_calls(run)) for run in runs]),
        (("sampling time", "s per image"), [_number(facts.seconds_per_image(run)) for run in runs]),
        (("status", ""), [Cell(run.status) for run in runs]),
    ]
    filled = [(head, cells) for head, cells in columns if any(cell.text for cell in cells)]
    return Table([head for head, _ in filled], list(zip(*(cells for _, cells in filled), strict=True)))


def _data(run: RunSummary) -> str:
    """The kind of data, or the name of a set in a folder or on the Hub; and the shape of samples."""
    data = run.recipe.get("data", {})
    name = str(data.get("path", "")).rstrip("/").rpartition("/")[2]
    size = "×".join(map(str, run.image_shape))
    return " ".join(part for part in (name or str(data.get("type", "")), size) if part)


def _sampled(run: RunSummary) -> str:
    """How the newest score's samples were made."""
    return facts.sampled(run.scores[-1]) if run.scores else ""


def _remark(column: Column) -> str:
    way = f"{column.better} is better" if column.better else ""
    return way if column.comparable else f"{way}, protocols differ".removeprefix(", ")


def _score(column: Column, run: int) -> Cell:
    return Cell(column.text(run), column.value(run), column.best == run)


def _count(value: int | None) -> Cell:
    return Cell("") if value is None else Cell(f"{value:,}", value)


def _number(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(f"{value:,.0f}" if value >= 100 else f"{value:.3g}", value)


def _time(seconds: float | None) -> Cell:
    if seconds is None:
        return Cell("")
    unit, length = facts.time_unit([seconds])
    return Cell(f"{seconds / length:.3g} {unit}", seconds)
