"""The report of a study: Markdown, pictures, and all numbers as JSON."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.commands import write_json, write_text
from toolkit_study.jobs import Folder
from toolkit_study.plan import Study
from toolkit_study.results import Estimate, Results, collect, differences, estimate


def write_report(study: Study, folder: Folder) -> list[str]:
    """Write report.md, results.json and pictures; returns the lines of the first table.

    Pictures need matplotlib and are left out without it.
    """
    results = collect(study, folder)
    try:
        from toolkit_study.figures import draw

        pictures = draw(study, results, folder.path)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        pictures = []
    write_json(folder.path / "results.json", as_json(study, results))
    scores = list(_scores(results))
    parts = [f"# {study.title}", *_about(study), "## Scores", *_intro(study, results), "\n".join(scores)]
    parts += _comparisons(study, results)
    parts += [f"![{title}]({name})" for title, name in pictures]
    parts += ["## Cost", "\n".join(_costs(results)), *_speeds(results)]
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
    if results.missing:
        yield f"Missing so far: {'; '.join(results.missing)}."


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown; numbers stand to the right."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join("---" if i == 0 else "---:" for i in range(len(heads))) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _scores(results: Results) -> Iterator[str]:
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    heads = ["", "calls", "samples/s", *(q.name + arrows[q.better] for q in results.quantities)]
    best = {}
    for quantity in results.quantities:
        means = {
            line.row.key: e.mean
            for line in results.lines
            if (e := estimate(line.numbers(quantity.name))) is not None
        }
        if quantity.better and len(means) > 1:
            best[quantity.name] = (max if quantity.better == "higher" else min)(
                means, key=lambda key: means[key]
            )
    rows = []
    for line in results.lines:
        cells = [
            plus_minus(estimate(line.numbers(q.name)), bold=best.get(q.name) == line.row.key)
            for q in results.quantities
        ]
        rows.append([line.row.title, f"{line.calls:,}", rounded(line.rate.mean) if line.rate else "", *cells])
    yield from table(heads, rows)


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
        names = [q.name for q in results.quantities]
        rows = [[line.row.title, *(gap_text(gaps.get(n)) for n in names)] for line, gaps in found]
        arrows = {"higher": " ↑", "lower": " ↓", None: ""}
        yield "\n".join(table(["", *(q.name + arrows[q.better] for q in results.quantities)], rows))


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


def _costs(results: Results) -> Iterator[str]:
    seen, rows = set(), []
    for line in results.lines:
        if line.row.run not in seen:
            seen.add(line.row.run)
            spent = rounded(line.train.mean) if line.train else ""
            rows.append([line.row.title, f"{line.steps:,}" if line.steps else "", spent])
    yield from table(["", "steps", "processor seconds of training"], rows)


def _speeds(results: Results) -> Iterator[str]:
    how = "; ".join(dict.fromkeys(line.speed for line in results.lines))
    yield (
        "Training is the processor time of the main process in its steps, records and measures, without "
        "start-up and last samples, and with that of the runs that a run was trained after. "
        f"Samples a second: by {how}."
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
