"""What the files of a run say, read without torch: for lists, comparisons and reports."""

import fcntl
import json
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
    """A score as `toolkit evaluate` wrote it."""

    metric: str
    values: Mapping[str, float]
    curves: Mapping[str, list[float]]
    fingerprint: str
    protocol: Mapping[str, Any]
    model: Mapping[str, Any]


@dataclass(frozen=True)
class RunSummary:
    """One run folder.

    Attributes:
        status: running, finished, stopped, failed, or killed (nobody holds the folder any more).
        step: the last one that is known of.
        scores: in the order in which they were measured.
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

    @property
    def name(self) -> str:
        return self.path.name

    def last(self, name: str) -> float | None:
        """The last recorded value of that name."""
        return next((r[name] for r in reversed(self.records) if r.get(name) is not None), None)


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
        step = max([step, *(int(record["step"]) for record in records)])
        status = "running" if _held(folder / LOCK) else "killed"
    if (folder / "metrics.jsonl").exists():
        written = max(written, (folder / "metrics.jsonl").stat().st_mtime)
    files = sorted((folder / "scores").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return RunSummary(folder, status, step, time.time() - written, recipe, records, tuple(map(_score, files)))


def runs_in(folder: Path) -> list[RunSummary]:
    """All runs in a folder and below, but not inside one another, newest first.

    Raises:
        RunError: if there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    found = [path.parent for path in folder.rglob("run.json") if (path.parent / "recipe.toml").is_file()]
    return sorted(map(read_run, found), key=lambda run: run.age)


def _records(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break  # the last line of a run that was killed while it wrote
    return found


def _score(path: Path) -> ScoreFile:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        return ScoreFile(**{field.name: stated[field.name] for field in fields(ScoreFile)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is no score of toolkit evaluate: {error}") from None


def _held(lock: Path) -> bool:
    """Whether a process holds the run."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
