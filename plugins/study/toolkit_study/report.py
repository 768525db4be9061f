"""The report of a study: Markdown, pictures, and all numbers as JSON."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.commands import write_json, write_text
from toolkit_study.jobs import Folder
from toolkit_study.plan import Study
from toolkit_study.results import Estimate, Quantity, Results, collect, differences, estimate

ARROWS = {"higher": " ↑", "lower": " ↓", None: ""}


def write_report(study: Study, folder: Folder) -> list[str]:
    """Write report.md, results.json and pictures; returns the lines of the first table.

    Pictures need matplotlib and are left out without it.
    """
    results = collect(study, folder)
    try:
        from toolkit_study.figures import draw

        pictures = draw(results, folder)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        pictures = []
    write_json(folder.path / "results.json", as_json(study, results))
    scores = list(_scores(results))
    parts = [f"# {study.title}", *_about(study), "## Scores", *_intro(study, results), "\n".join(scores)]
    parts += _comparisons(study, results)
    parts += [f"![{title}]({name})" for title, name in pictures]
    parts += ["## Cost", "\n".join(_costs(study, results)), *_speeds(results)]
    if results.protocols:
        parts += ["## Protocol", *_protocol(study, results)]
    parts += ["## By seed", "\n".join(_by_seed(results))]
    write_text(folder.path / "report.md", "\n\n".join(parts) + "\n")
    return scores


def as_json(study: Study, results: Results) -> dict[str, Any]:
    """All numbers."""

    def of(one: Estimate | None) -> Any:
        return None if one is None else dataclasses.asdict(one)

    return {
        "study": study.name,
        "title": study.title,
        "seeds": list(study.seeds),
        "scores": {line.row.key: {str(s): dict(v) for s, v in line.scores.items()} for line in results.lines},
        "costs": {
            line.row.key: {
                "network_calls": line.calls, "samples_per_second": of(line.rate),
                "train_processor_seconds": of(line.train), "steps": line.steps,
                "sampling": line.sampling,
            }
            for line in results.lines
        },
        "comparisons": {
            name: {
                line.row.key: {quantity: of(gap) for quantity, gap in gaps.items()}
                for line, gaps in differences(results, one)
            }
            for name, one in study.comparisons.items()
        },
        "protocols": results.protocols,
        "missing": list(results.missing),
    }  # fmt: skip


def _about(study: Study) -> Iterator[str]:
    if study.about:
        yield f"```text\n{study.about}\n```"


def _intro(study: Study, results: Results) -> Iterator[str]:
    seeds = ", ".join(map(str, study.seeds))
    yield (
        f"Means over seeds {seeds} with their standard errors. An arrow says which way is better; the best "
        "mean of a column is bold, which is no claim: the differences below have intervals."
        if len(study.seeds) > 1
        else f"One seed, {seeds}: nothing says how much another would differ."
    )
    if any(quantity.name == "held_out" for quantity in results.quantities):
        yield "`held_out` is the last loss on held-out data, of the same objective, path and data for all."
    if results.lines and not results.quantities:
        yield "Nothing was measured by which runs could be compared: no metric, and no common held-out loss."
    if results.missing:
        yield f"Missing so far: {'; '.join(results.missing)}."


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown whose columns stand below one another as text too; numbers stand to the right.

    Columns in which nothing stands are left out.
    """
    used = [i for i in range(len(heads)) if i == 0 or any(row[i] for row in rows)]
    heads, rows = [heads[i] for i in used], [[row[i] for i in used] for row in rows]
    widths = [max(3, *(len(row[i]) for row in [heads, *rows])) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])} |"

    yield line(heads)
    yield f"|{'-' * (widths[0] + 2)}|" + "".join(f"{'-' * (width + 1)}:|" for width in widths[1:])
    yield from map(line, rows)


def _heads(results: Results) -> list[str]:
    return [quantity.name + ARROWS[quantity.better] for quantity in results.quantities]


def _scores(results: Results) -> Iterator[str]:
    rows = []
    best = {quantity.name: _best(results, quantity) for quantity in results.quantities}
    for line in results.lines:
        cells = [
            plus_minus(estimate(line.numbers(q.name)), bold=best[q.name] == line.row.key)
            for q in results.quantities
        ]
        calls, rate = line.calls, line.rate
        costs = ["" if calls is None else f"{calls:,}", "" if rate is None else rounded(rate.mean)]
        rows.append([line.row.title, *costs, *cells])
    yield from table(["", "calls", "samples/s", *_heads(results)], rows)


def _best(results: Results, quantity: Quantity) -> str | None:
    """The key of the only line with the best mean."""
    means = {line.row.key: m for line in results.lines if (m := line.mean(quantity.name)) is not None}
    if quantity.better is None or not means:
        return None
    value = (max if quantity.better == "higher" else min)(means.values())
    first, *others = [key for key, mean in means.items() if mean == value]
    return None if others else first


def plus_minus(one: Estimate | None, *, bold: bool = False) -> str:
    """A mean with its standard error, to the digits that the error allows."""
    if one is None:
        return ""
    digits = places(one.error if one.error else abs(one.mean) / 50)
    text = f"{one.mean:,.{digits}f}"
    text = f"**{text}**" if bold else text
    return text if one.error is None else f"{text} ± {one.error:.{digits}f}"


def places(error: float) -> int:
    """Decimal places that show two digits of a number, none for numbers of two digits and more."""
    return 0 if error <= 0 else min(max(1 - math.floor(math.log10(error)), 0), 6)


def rounded(number: float) -> str:
    """Three digits of it: 9.74, 84.1, 1,780."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 100 else f"{number:.3g}"


def _comparisons(study: Study, results: Results) -> Iterator[str]:
    for name, one in study.comparisons.items():
        found = differences(results, one)
        base = results.line(one.baseline)
        if not found or base is None:
            continue
        yield f"## {one.title or name}"
        yield (
            f"Differences from {base.row.title} at the same seed: mean over seeds, and in brackets its 95 % "
            "interval by Student's t. Bold: the interval leaves 0 out. Nothing corrects for the number of "
            "comparisons."
        )
        names = [quantity.name for quantity in results.quantities]
        rows = [[line.row.title, *(gap_text(gaps.get(name)) for name in names)] for line, gaps in found]
        yield "\n".join(table(["", *_heads(results)], rows))


def gap_text(gap: Estimate | None) -> str:
    """A difference with its interval."""
    if gap is None:
        return ""
    if gap.interval is None:
        return f"{gap.mean:+.3g}"
    digits = places(gap.error or abs(gap.mean) / 50)
    text = f"{gap.mean:+,.{digits}f}"
    low, high = (f"{end:+,.{digits}f}" for end in gap.interval)
    return f"{f'**{text}**' if gap.clear else text} [{low}, {high}]"


def _costs(study: Study, results: Results) -> Iterator[str]:
    seen, rows = set(), []
    for line in results.lines:
        if line.row.run not in seen:
            seen.add(line.row.run)
            spent = rounded(line.train.mean) if line.train else ""
            rows.append([study.runs[line.row.run].title, f"{line.steps:,}", spent])
    yield from table(["", "steps", "processor seconds of training"], rows)


def _speeds(results: Results) -> Iterator[str]:
    how = "; ".join(dict.fromkeys(line.speed for line in results.lines if line.speed))
    yield (
        "Training is the processor time of the main process in its steps, records and measures, without "
        "start-up and last samples, and with that of the runs that a run was trained after."
        + (f" Samples a second: by {how}." if how else "")
    )


def _protocol(study: Study, results: Results) -> Iterator[str]:
    for metric, protocol in results.protocols.items():
        yield f"- `{metric}`: `{json.dumps(protocol)}`"
    if results.notes:
        yield "\n".join(f"- {note}" for note in results.notes)


def _by_seed(results: Results) -> Iterator[str]:
    rows = [
        [
            line.row.title,
            str(seed),
            *(f"{values[q.name]:.5g}" if q.name in values else "" for q in results.quantities),
        ]
        for line in results.lines
        for seed, values in sorted(line.scores.items())
    ]
    yield from table(["", "seed", *(q.name for q in results.quantities)], rows)
