"""What the files of a run say, read without torch: for lists, comparisons and reports."""

import fcntl
import json
import statistics
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from toolkit.errors import RunError

LOCK = ".lock"


@dataclass(frozen=True)
class ScoreFile:
    """A score as `toolkit evaluate` wrote it.

    Attributes:
        better: the values by which models can be ranked, and whether "higher" or "lower" is better; empty in
            files that were written before it was.
        time: when it was measured; of files that were written before it was, when the file changed.
    """

    metric: str
    values: Mapping[str, float]
    curves: Mapping[str, list[float]]
    fingerprint: str
    protocol: Mapping[str, Any]
    model: Mapping[str, Any]
    better: Mapping[str, str] = field(default_factory=dict)
    time: float = 0.0

    def is_of(self, pipeline: Mapping[str, Any]) -> bool:
        """Whether it is of the weights that a pipeline.json speaks of: those of another step are others."""
        return all(self.model.get(name) == pipeline.get(name) for name in ("steps", "weights"))


@dataclass(frozen=True)
class RunSummary:
    """One run folder.

    Attributes:
        status: running, finished, stopped, failed, or killed (nobody holds the folder any more); "running or
            unknown" where that cannot be told; in a list also "unreadable" and why.
        step: the last one that is known of.
        scores: of the weights in its pipeline, in the order in which they were measured.
        stale: scores of earlier weights, from before the run was resumed.
        cost: what the model costs, as its cost.json says; None without one.
        pipeline: what its saved pipeline says of itself; None for a run without one.
        age: seconds since something was last written.
        records: the lines of metrics.jsonl.
    """

    path: Path
    status: str
    step: int
    age: float
    recipe: Mapping[str, Any] = field(repr=False)
    records: tuple[Mapping[str, Any], ...] = field(repr=False)
    scores: tuple[ScoreFile, ...] = field(repr=False)
    cost: Mapping[str, Any] | None = field(default=None, repr=False)
    pipeline: Mapping[str, Any] | None = field(default=None, repr=False)
    stale: tuple[ScoreFile, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    def last(self, name: str) -> float | None:
        """The last recorded value of that name."""
        return next((r[name] for r in reversed(self.records) if r.get(name) is not None), None)

    @property
    def images_per_second(self) -> float | None:
        """Median of the recorded training speeds: single ones are slowed by whatever else ran."""
        speeds = [record["images_per_second"] for record in self.records if "images_per_second" in record]
        return statistics.median(speeds) if speeds else None

    @property
    def train_seconds(self) -> float | None:
        """Wall time of training; of a resumed run, whose clock begins anew, that of all its parts."""
        clock = [record["seconds"] for record in self.records if "seconds" in record]
        ends = [now for now, after in zip(clock, [*clock[1:], 0.0], strict=False) if after < now]
        return sum(ends) if clock else None


def read_run(folder: Path) -> RunSummary:
    """Read a run folder.

    Raises:
        RunError: if there is no run, or its recipe cannot be read.
    """
    try:
        recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
        stated = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        status, step = str(stated["status"]), int(stated["step"])
        written = float(stated["time"])
    except FileNotFoundError:
        raise RunError(f"{folder}: no run here: it has no recipe.toml and run.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: its recipe.toml or run.json cannot be read: {error}") from None
    records = tuple(_records(folder / "metrics.jsonl"))
    if status == "running":
        step = max([step, *(int(record.get("step", 0)) for record in records)])
        status = _held(folder / LOCK)
    if (folder / "metrics.jsonl").exists():
        written = max(written, (folder / "metrics.jsonl").stat().st_mtime)
    scores, pipeline = scores_of(folder), _stated(folder / "pipeline" / "pipeline.json")
    stale = tuple(score for score in scores if pipeline is not None and not score.is_of(pipeline))
    return RunSummary(
        folder, status, step, time.time() - written, recipe, records,
        tuple(score for score in scores if score not in stale),
        cost=_stated(folder / "cost.json"), pipeline=pipeline, stale=stale,
    )  # fmt: skip


def scores_of(run: Path) -> tuple[ScoreFile, ...]:
    """The scores in a run folder, in the order in which they were measured.

    Raises:
        RunError: if one cannot be read.
    """
    found = map(_score, sorted((run / "scores").glob("*.json")))
    return tuple(sorted(found, key=lambda score: score.time))


def runs_in(folder: Path) -> list[RunSummary]:
    """All runs in a folder and below it, also inside one another, newest first.

    One that cannot be read is there with that as its status.

    Raises:
        RunError: if there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    found = [path.parent for path in folder.rglob("run.json") if (path.parent / "recipe.toml").is_file()]
    return sorted(map(_read_or_say, found), key=lambda run: run.age)


def _read_or_say(folder: Path) -> RunSummary:
    try:
        return read_run(folder)
    except RunError as error:
        age = time.time() - (folder / "run.json").stat().st_mtime
        return RunSummary(folder, f"unreadable: {error}", 0, age, {}, (), ())


def _records(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            break  # the last line of a run that was killed while it wrote
        found.append(record)
    return found


def _stated(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no file."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if not isinstance(stated, dict):
        raise RunError(f"{path}: is no JSON object")
    return stated


def _score(path: Path) -> ScoreFile:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        required = {f.name: stated[f.name] for f in fields(ScoreFile) if f.name not in ("better", "time")}
        measured = float(stated.get("time", path.stat().st_mtime))
        return ScoreFile(**required, better=stated.get("better", {}), time=measured)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is no score of toolkit evaluate: {error}") from None


def _held(lock: Path) -> str:
    """The status of a run that says it is running: whether a process holds it."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except FileNotFoundError:
        return "killed"
    except OSError:  # not ours to open, or a file system without locks
        return "running or unknown"
    return "killed"
