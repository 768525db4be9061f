"""What is compared: runs, each in every way in which it was sampled, and their held-out losses as scores."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from toolkit.commands import RunSummary, ScoreFile
from toolkit_report import facts

LOADING = ("in_memory_mb", "workers", "on_error", "flip")  # of [data]: how it is read for training


def rows(runs: Sequence[RunSummary], names: Sequence[str]) -> tuple[list[RunSummary], list[str]]:
    """A row for each run and way to sample it that has scores, and the names of the rows.

    A run that was sampled in one way, or has no scores, is one row with its own name.
    """
    found: list[RunSummary] = []
    named: list[str] = []
    for run, name in zip(runs, names, strict=True):
        ways: dict[str, list[ScoreFile]] = {}
        for score in run.scores:
            ways.setdefault(_way(score), []).append(score)
        for scores in ways.values() or [[]]:
            found.append(replace(run, scores=tuple(scores)))
            named.append(f"{name}, {facts.sampled(scores[-1])}" if len(ways) > 1 else name)
    return found, named


def _way(score: ScoreFile) -> str:
    """The way in which samples were made, whatever their seeds."""
    sampling = {key: value for key, value in (score.sampling or {}).items() if key != "seed"}
    return json.dumps(sampling, sort_keys=True)


def held_out(run: RunSummary) -> ScoreFile | None:
    """The last held-out loss of what a run has trained, as a score; None if none was recorded.

    Only runs of the same objective, path and data can be compared by it: that is its protocol. Losses of
    other networks, a discriminator's say, rank nothing.
    """
    role = _result(run)
    name = f"held_out/{role}/loss"
    value = None if role is None else run.last(name)
    if value is None:
        return None
    tables = {section: run.recipe.get(section) for section in ("objective", "schedule", "encoder", "data")}
    data = {key: value for key, value in (tables["data"] or {}).items() if key not in LOADING}
    stated = {**tables, "data": data}
    return ScoreFile.measured(name, {name: value}, {name: "lower"}, stated, None, {"identity": ""})


def _result(run: RunSummary) -> str | None:
    """The role of the network that a run is for."""
    if run.pipeline is not None:
        return str(run.pipeline.get("role") or "denoiser")
    networks = list(run.recipe.get("networks", {}))
    return networks[0] if len(networks) == 1 else None


def held_out_groups(runs: Sequence[RunSummary]) -> Iterator[dict[int, ScoreFile]]:
    """The held-out losses that can be compared, those of two runs at least, by the runs' places."""
    groups: dict[str, dict[int, ScoreFile]] = {}
    for place, run in enumerate(runs):
        if (score := held_out(run)) is not None:
            groups.setdefault(f"{score.metric} {score.fingerprint}", {})[place] = score
    for group in groups.values():
        if len({runs[place].path for place in group}) > 1:
            yield group
