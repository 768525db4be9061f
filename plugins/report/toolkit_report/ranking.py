"""Ranking of runs by scores: which scores can be compared, how others differ, and which run is best."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from toolkit.commands import RunError, RunSummary, ScoreFile, nearest
from toolkit_report.differences import Difference, differences
from toolkit_report.rows import held_out_groups

MARKS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Column:
    """One named value of a metric, of every run that has it.

    Attributes:
        name: the name of the value, e.g. "fid_inception".
        better: "higher", "lower", or None for a value that ranks nothing.
        scores: by the run's place in the list, at most one for each run.
    """

    name: str
    better: str | None
    scores: Mapping[int, ScoreFile]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the protocols, in the order of the runs; scores can be compared if there is one."""
        return tuple(dict.fromkeys(score.fingerprint for score in self.scores.values()))

    @property
    def comparable(self) -> bool:
        return len(self.fingerprints) == 1

    @property
    def key(self) -> str:
        """The name for `--by` where several columns have the same `name`."""
        return f"{self.name}@{self.fingerprints[0]}"

    @property
    def metric(self) -> str:
        return next(iter(self.scores.values())).metric

    def value(self, run: int) -> float | None:
        return self.scores[run].values.get(self.name) if run in self.scores else None

    def text(self, run: int) -> str:
        """The value with its deviation and its mark; empty for a run without it."""
        value = self.value(run)
        if value is None:
            return ""
        values = self.scores[run].values
        error = values.get(f"{self.name}_std")
        if error is None and self.name == next(iter(values)):
            error = values.get("standard_error")
        mark = self.mark(run)
        return (
            f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else "") + (f" ({mark})" if mark else "")
        )

    def mark(self, run: int) -> str:
        """A letter for the protocol, where the column has several."""
        several, score = self.fingerprints, self.scores.get(run)
        return MARKS[several.index(score.fingerprint) % 26] if score and not self.comparable else ""

    @property
    def best(self) -> int | None:
        """The place of the best run; None where scores cannot be compared, or only one run has any."""
        order = self.order()
        comparable = self.better is not None and self.comparable and len(order) > 1
        return order[0] if comparable else None

    def order(self) -> list[int]:
        """Places of the runs that have a number here, best first."""
        numbers = {run: value for run in self.scores if (value := self.value(run)) is not None}
        sign = -1 if self.better == "higher" else 1
        return sorted((r for r, v in numbers.items() if math.isfinite(v)), key=lambda r: sign * numbers[r])

    def protocols(self) -> list[Difference]:
        """Differences between the protocols, with one value for each fingerprint."""
        first = {score.fingerprint: score.protocol for score in reversed(list(self.scores.values()))}
        return list(differences([first[fingerprint] for fingerprint in self.fingerprints]))

    def differing(self) -> str:
        """A text with the values of each protocol where the protocols of the column differ."""
        between = self.protocols()
        telling = [difference for difference in between if not difference.lacking] or between
        return "; ".join(
            f"{d.key} is " + ", ".join(f"{text} in ({MARKS[i % 26]})" for i, text in enumerate(d.texts()))
            for d in telling
        )


def footnotes(mixed: Sequence[Column]) -> list[str]:
    """Sentences about scores by different protocols, one for all metrics whose protocols differ alike."""
    metrics: dict[str, list[str]] = {}
    for column in mixed:
        metrics.setdefault(column.differing(), []).append(column.metric)
    return [
        f"Scores of {', '.join(dict.fromkeys(names))} by different protocols, not to be compared: {values}."
        for values, names in metrics.items()
    ]


def columns(runs: Sequence[RunSummary]) -> list[Column]:
    """Columns for scores and held-out losses; of several scores by one protocol, the newest of a run counts.

    A protocol that all runs with that metric have in common gets columns of its own, and scores by others are
    left out. If they have none in common, the newest score of each run goes into the same column.
    """
    newest: dict[str, dict[int, dict[str, ScoreFile]]] = {}
    for place, run in enumerate(runs):
        for score in run.scores:
            held = newest.setdefault(score.metric, {}).setdefault(place, {})
            held.pop(score.fingerprint, None)  # so that the last one is the one measured last
            held[score.fingerprint] = score
    result: list[Column] = []
    for by_run in newest.values():
        shared = [f for f in next(iter(by_run.values())) if all(f in held for held in by_run.values())]
        groups = [{place: held[f] for place, held in by_run.items()} for f in reversed(shared)]
        mixed = {place: list(held.values())[-1] for place, held in by_run.items()}
        for scores in groups or [mixed]:
            result += _of_group(scores)
    for scores in held_out_groups(runs):
        result += _of_group(scores)
    return result


def _of_group(scores: Mapping[int, ScoreFile]) -> Iterator[Column]:
    """A column for each value that ranks, or for every value but deviations where none does."""
    names = dict.fromkeys(name for score in scores.values() for name in score.values)
    ranking = {name: way for score in scores.values() for name, way in score.better.items()}
    kept = ranking or [
        n for n in names if n != "standard_error" and n.removesuffix("_std") not in names.keys() - {n}
    ]
    for name in kept:
        if held := {place: score for place, score in scores.items() if name in score.values}:
            yield Column(name, ranking.get(name), held)


def notes_on(runs: Sequence[RunSummary], names: Sequence[str]) -> list[str]:
    """A sentence for each run with scores of earlier weights, which are in no column, or damaged records."""
    notes = []
    for run, name in zip(runs, names, strict=True):
        stale = ", ".join(f"{score.metric} at step {score.model.get('steps')}" for score in run.stale)
        notes += [f"{name}: left out scores of earlier weights: {stale}"] if stale else []
        if run.outdated:
            metrics = ", ".join(run.outdated)
            notes.append(f"{name}: scores of an earlier version have to be measured again: {metrics}")
        notes += [f"{name}: left out {run.damaged} damaged lines of its metrics"] if run.damaged else []
    return notes


def _refusal(column: Column, names: Sequence[str]) -> str:
    metric, scores = column.metric, column.scores
    whose = ", ".join(f"{names[place]} {score.fingerprint}" for place, score in scores.items())
    lines = [
        f"scores of {metric} have different fingerprints ({whose}): they cannot be ranked. What differs:"
    ]
    tables = [score.protocol for score in scores.values()]
    lines += [f"  {d.key}: {' and '.join(dict.fromkeys(d.texts()))}" for d in differences(tables)]
    return "\n".join([*lines, "Evaluate the runs alike, or give --anyway to see the scores side by side."])


def chosen(
    available: Sequence[Column], by: str | None, names: Sequence[str], *, anyway: bool
) -> Column | None:
    """The column to rank by: the one that `by` names, or the first that ranks by scores of one protocol.

    None if there is no such column, or if `anyway` shows scores by different protocols, which rank nothing.

    Args:
        names: the names of the runs.

    Raises:
        RunError: if `by` names no value, a value of several protocols or one that ranks nothing; or, without
            `anyway`, if all candidates mix scores with different fingerprints.
    """
    candidates = [column for column in available if column.better] or available
    if by is not None:
        candidates = [_named(available, by)]
    comparable = [column for column in candidates if column.comparable]
    if candidates and not comparable and not anyway:
        raise RunError(_refusal(candidates[0], names))
    return next((column for column in comparable if column.better), None)


def _named(available: Sequence[Column], by: str) -> Column:
    named = [column for column in available if by in (column.name, column.key)]
    if not named:
        known = [column.name for column in available if column.better]
        scores = f" They have {', '.join(dict.fromkeys(known))}." if known else " They have none."
        raise RunError(f"--by {by}: no score that ranks these runs.{nearest(by, known)}{scores}")
    if len(named) > 1:
        keys = " or ".join(column.key for column in named)
        raise RunError(f"--by {by}: was measured by several protocols: give {keys}")
    if named[0].better is None:
        raise RunError(
            f"--by {by}: its metric does not say whether higher or lower is better (Score.better); "
            "scores of an earlier version of the toolkit have to be measured again"
        )
    return named[0]


def ranked(runs: Sequence[RunSummary], column: Column | None) -> list[int]:
    """Places of all runs, best first; runs without a number come last, in the order given."""
    order = column.order() if column else []
    return [*order, *(place for place in range(len(runs)) if place not in order)]


def labels(runs: Sequence[RunSummary]) -> list[str]:
    """A name for each run: its folder's, with as many parents as are needed to tell them apart."""
    parts = [run.path.resolve().parts for run in runs]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        depth = next(
            (n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own)
        )
        names.append("/".join(own[-depth:]))
    return names
