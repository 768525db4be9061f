"""The results of a study: means over seeds, and differences seed by seed, each with its standard error."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scipy import stats

from toolkit.commands import RunSummary, ScoreFile, read_json, read_run
from toolkit_study.jobs import Folder, scoring_of, training_of
from toolkit_study.plan import ComparisonOptions, Row, Study


@dataclass(frozen=True)
class Estimate:
    """A mean of independent numbers.

    Attributes:
        error: its standard error; None of a single number.
        interval: of 95 %, by Student's t; None of a single number.
        numbers: by seed.
    """

    mean: float
    error: float | None
    interval: tuple[float, float] | None
    numbers: Mapping[int, float]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        if self.interval is None or not self.error:  # equal numbers say nothing about others
            return False
        return not self.interval[0] <= 0 <= self.interval[1]


def estimate(numbers: Mapping[int, float]) -> Estimate | None:
    """The mean of numbers by seed; None if there are none."""
    values = [value for value in numbers.values() if math.isfinite(value)]
    if not values or len(values) < len(numbers):
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None, dict(numbers))
    error = statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Estimate(mean, error, (mean - reach, mean + reach), dict(numbers))


@dataclass(frozen=True)
class Quantity:
    """A number that scores have: "fid", and whether lower is better."""

    name: str
    better: str | None


@dataclass(frozen=True)
class Line:
    """What is known of a row: by seed, scores by the quantity's name, and what it costs.

    Attributes:
        calls: of networks for a sample, those of its start included; None if it was not sampled.
        rate: samples a second.
        speed: by which clock.
        sampling: how samples were made.
        samples: those of the first seed, relative to the study's folder.
        train: processor seconds of training, those of the runs that it needs included.
    """

    row: Row
    scores: Mapping[int, Mapping[str, float]]
    calls: int | None
    rate: Estimate | None
    speed: str | None
    train: Estimate | None
    steps: int
    sampling: Mapping[str, Any] | None
    samples: str | None

    def numbers(self, name: str) -> dict[int, float]:
        return {seed: values[name] for seed, values in self.scores.items() if name in values}

    def mean(self, name: str) -> float | None:
        estimated = estimate(self.numbers(name))
        return None if estimated is None else estimated.mean


@dataclass(frozen=True)
class Results:
    """All that a study has measured so far.

    Attributes:
        lines: of the rows of which something is known.
        missing: rows and seeds of which nothing is.
        notes: what the metrics said about their numbers.
        protocols: how each metric was measured.
    """

    quantities: Sequence[Quantity]
    lines: Sequence[Line]
    missing: Sequence[str]
    notes: Sequence[str]
    protocols: Mapping[str, Mapping[str, Any]]

    def line(self, key: str) -> Line | None:
        return next((line for line in self.lines if line.row.key == key), None)


def collect(study: Study, folder: Folder) -> Results:
    """Read what the jobs of a study have left, of what it asks for now."""
    quantities: dict[str, Quantity] = {}
    notes: dict[str, None] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    lines, missing = [], []
    scored, held_out = "metrics" in study.protocol, _one_measure(study)
    for row in study.rows:
        run = study.runs[row.run]
        results: dict[int, Mapping[str, Any]] = {}
        scores: dict[int, dict[str, float]] = {}
        for seed in run.seeds:
            job = scoring_of(study, row, seed, folder) if scored else training_of(study, run, seed, folder)
            if not job.done():
                missing.append(f"{row.title}, seed {seed}")
                continue
            values = scores[seed] = {}
            if scored:
                results[seed] = read_json(folder.result(row, seed))
                for score in map(ScoreFile.model_validate, results[seed]["scores"]):
                    protocols.setdefault(score.metric, score.protocol)
                    notes |= dict.fromkeys(f"{score.metric}: {note}" for note in score.notes)
                    for name in score.better or list(score.values)[:1]:
                        plain = _plain(name, score)
                        quantities.setdefault(plain, Quantity(plain, score.better.get(name)))
                        values[plain] = score.values[name]
            if held_out and (loss := _held_out(read_run(folder.run(row.run, seed)))) is not None:
                quantities.setdefault("held_out", Quantity("held_out", "lower"))
                values["held_out"] = loss
        if scores:
            lines.append(_line(study, row, scores, results, folder))
    listed = list(quantities.values())
    if study.ranked and listed and listed[0].better:
        lines.sort(key=partial(_place, listed[0]))
    return Results(listed, lines, missing, list(notes), protocols)


def _line(
    study: Study, row: Row, scores: Mapping[int, Mapping[str, float]],
    results: Mapping[int, Mapping[str, Any]], folder: Folder,
) -> Line:  # fmt: skip
    spent = {seed: _spent(study, row.run, seed, folder) for seed in scores}
    one = next(iter(results.values()), None)
    return Line(
        row, scores,
        None if one is None else one["network_calls"] + one["start_calls"],
        estimate({seed: result["samples_per_second"] for seed, result in results.items()}),
        None if one is None else one["speed"],
        estimate({seed: value for seed, value in spent.items() if value is not None}),
        read_run(folder.run(row.run, next(iter(scores)))).step,
        None if one is None or not one["scores"] else one["scores"][0]["sampling"],
        None if one is None else one["samples"],
    )  # fmt: skip


def _place(quantity: Quantity, line: Line) -> float:
    """A number that is smaller for better lines."""
    mean = line.mean(quantity.name)
    return math.inf if mean is None else mean if quantity.better == "lower" else -mean


def _one_measure(study: Study) -> bool:
    """Whether the held-out losses of all scored runs measure the same: objective, path and data are equal."""
    runs = [run.tables for run in study.runs.values() if run.rows]
    names = ("objective", "schedule", "encoder", "data")
    return all(tables.get(name) == runs[0].get(name) for tables in runs for name in names)


def _held_out(run: RunSummary) -> float | None:
    """The last held-out loss of the network that samples."""
    role = (run.pipeline or {}).get("role") or "denoiser"
    return run.last(f"held_out/{role}/loss")


def _plain(name: str, score: ScoreFile) -> str:
    """The name of a value without that of the feature extractor, which the protocol states."""
    extractor = (score.protocol.get("extractor") or {}).get("name")
    return name.removesuffix(f"_{extractor}") if extractor else name


def _spent(study: Study, name: str, seed: int, folder: Folder) -> float | None:
    """Processor seconds of training a run and those that it was trained after."""
    run = study.runs[name]
    own = read_run(folder.run(name, seed)).processor_seconds
    before = [_spent(study, other, study.seed_of(other, seed), folder) for other in run.after]
    parts = [own, *before]
    return None if any(part is None for part in parts) else sum(part for part in parts if part is not None)


def differences(results: Results, comparison: ComparisonOptions) -> list[tuple[Line, dict[str, Estimate]]]:
    """For each line, by quantity, its difference from the baseline of the same seed, estimated over seeds."""
    base = results.line(comparison.baseline)
    if base is None:
        return []
    found = []
    for line in results.lines:
        if line is base or (comparison.of is not None and line.row.key not in comparison.of):
            continue
        gaps = {}
        for quantity in results.quantities:
            ours, theirs = line.numbers(quantity.name), base.numbers(quantity.name)
            gap = estimate({seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs})
            if gap is not None:
                gaps[quantity.name] = gap
        if gaps:
            found.append((line, gaps))
    return found
