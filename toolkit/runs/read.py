"""Reading the files of a run without torch, for lists, comparisons and reports."""

import fcntl
import hashlib
import json
import statistics
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import RunError
from toolkit.files import settle, write_json
from toolkit.runs.layout import COST, LOCK


class ScoreFile(BaseModel):
    """A score as `toolkit evaluate` writes it, with the protocol, without which it means nothing.

    Attributes:
        values: named numbers, the one that people quote first; see `Score`.
        curves: named lists of numbers.
        better: the values by which models can be ranked, and whether "higher" or "lower" is better.
        notes: caveats about the numbers.
        fingerprint: a hash of the protocol: scores can be compared if theirs are equal.
        protocol: how it was measured.
        model: the weights ("identity") and after how many steps; for existing images, which ones.
        time: when it was measured, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    time: float = 0.0
    values: dict[str, float]
    curves: dict[str, list[float]]
    better: dict[str, Literal["higher", "lower"]] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    fingerprint: str
    protocol: dict[str, Any]
    model: dict[str, Any]

    @classmethod
    def measured(
        cls, metric: str, values: Mapping[str, float], better: Mapping[str, Any],
        protocol: Mapping[str, Any], model: Mapping[str, Any],
        curves: Mapping[str, Sequence[float]] | None = None, notes: Sequence[str] = (),
    ) -> Self:  # fmt: skip
        """A score measured just now; its fingerprint is a hash of the protocol."""
        fingerprint = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
        return cls(
            metric=metric, time=time.time(), values=dict(values), better=dict(better), notes=list(notes),
            curves={name: list(curve) for name, curve in (curves or {}).items()}, fingerprint=fingerprint[:8],
            protocol=dict(protocol), model=dict(model),
        )  # fmt: skip

    def is_of(self, pipeline: Mapping[str, Any]) -> bool:
        """Whether it was measured on the weights that a pipeline.json describes, at the same step."""
        return all(self.model.get(name) == pipeline.get(name) for name in ("steps", "weights"))

    def write(self, folder: Path) -> Path:
        """Write one JSON file per protocol and model, so that no score replaces another; returns its path."""
        path = folder / f"{self.metric}-{self.fingerprint}-{self.model['identity'][:8]}.json"
        write_json(path, self.model_dump(mode="json"))
        return path


class Cost(BaseModel):
    """The cost of a model, as cost.json in its run folder records it.

    Attributes:
        parameters: how many each network has, by role.
        samples_per_second: the speed of whole draws of `batch_size`, after a warm-up.
        network_calls: for one sample, including those of the start.
        flops_per_image: of one sample, over all network calls; a multiply-add counts as two.
        peak_memory_bytes: the peak while sampling, of what `peak_memory` says.
        peak_memory: "allocated on the device", or on a CPU "growth of the process's peak resident memory".
        train_images_per_second: the median over the run's records; None without a run.
        train_seconds: wall time of training, over all parts of a resumed run; None without a run.
        device: the accelerator's name, or the type of the device.
        threads: CPU threads that torch uses.
    """

    model_config = ConfigDict(frozen=True)

    parameters: dict[str, int]
    samples_per_second: float
    batch_size: int
    network_calls: int
    flops_per_image: int
    peak_memory_bytes: int
    peak_memory: str
    train_images_per_second: float | None
    train_seconds: float | None
    device: str
    threads: int

    def write(self, run: Path) -> Path:
        """Write the run's cost.json; returns its path."""
        write_json(run / COST, self.model_dump(mode="json"))
        return run / COST


@dataclass(frozen=True)
class RunSummary:
    """The content of one run folder.

    Attributes:
        status: running, finished, stopped, failed, or killed (no process holds the folder any more); "running
            or unknown" where that cannot be determined; in a list also "unreadable" and why.
        step: the last known one.
        scores: of the weights in its pipeline, in the order in which they were measured.
        stale: scores of earlier weights, from before the run was resumed.
        cost: None without a cost.json.
        pipeline: the content of its pipeline.json; None for a run without a pipeline.
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
    cost: Cost | None = field(default=None, repr=False)
    pipeline: Mapping[str, Any] | None = field(default=None, repr=False)
    stale: tuple[ScoreFile, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def image_shape(self) -> Sequence[int]:
        """The shape of what its pipeline gives; () for a run without a pipeline."""
        pipeline = self.pipeline or {}
        return pipeline.get("image_shape") or pipeline.get("sample_shape") or ()

    def last(self, name: str) -> float | None:
        """The last recorded value of that name; None if there is none."""
        return next((r[name] for r in reversed(self.records) if r.get(name) is not None), None)

    @property
    def images_per_second(self) -> float | None:
        """Median of the recorded training speeds, because whatever else runs slows single ones."""
        speeds = [record["images_per_second"] for record in self.records if "images_per_second" in record]
        return statistics.median(speeds) if speeds else None

    @property
    def train_seconds(self) -> float | None:
        """Wall time of training, summed over the parts of a resumed run, each of which restarts the clock."""
        clock = [record["seconds"] for record in self.records if "seconds" in record]
        ends = [now for now, after in zip(clock, [*clock[1:], 0.0], strict=False) if after < now]
        return sum(ends) if clock else None


def read_run(folder: Path) -> RunSummary:
    """Read a run folder.

    Raises:
        RunError: if there is no run, or its recipe cannot be read.
    """
    settle(folder)
    try:
        recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
        state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        status, step = str(state["status"]), int(state["step"])
        written = float(state["time"])
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
    scores, pipeline = scores_of(folder), _read_object(folder / "pipeline" / "pipeline.json")
    stale = tuple(score for score in scores if pipeline is not None and not score.is_of(pipeline))
    return RunSummary(
        folder, status, step, time.time() - written, recipe, records,
        tuple(score for score in scores if score not in stale),
        cost=_read(folder / COST, Cost, "a cost") if (folder / COST).is_file() else None,
        pipeline=pipeline, stale=stale,
    )  # fmt: skip


def scores_of(run: Path) -> tuple[ScoreFile, ...]:
    """The scores in a run folder, in the order in which they were measured.

    Raises:
        RunError: if one cannot be read.
    """
    files = sorted((run / "scores").glob("*.json"))
    scores = [_read(path, ScoreFile, "a score of toolkit evaluate") for path in files]
    return tuple(sorted(scores, key=lambda score: score.time))


def runs_in(folder: Path) -> list[RunSummary]:
    """All runs in a folder and below it, also inside one another, newest first.

    A run that cannot be read is listed with the reason as its status.

    Raises:
        RunError: if there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    folders = [path.parent for path in folder.rglob("run.json") if (path.parent / "recipe.toml").is_file()]
    return sorted(map(_read_or_say, folders), key=lambda run: run.age)


def _read_or_say(folder: Path) -> RunSummary:
    try:
        return read_run(folder)
    except RunError as error:
        age = time.time() - (folder / "run.json").stat().st_mtime
        return RunSummary(folder, f"unreadable: {error}", 0, age, {}, (), ())


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            break  # the last line of a run that was killed while it wrote
        records.append(record)
    return records


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: is not a JSON object")
    return content


M = TypeVar("M", bound=BaseModel)


def _read(path: Path, model: type[M], what: str) -> M:
    """Parse a file into the model that wrote it.

    Raises:
        RunError: if the file is of another kind, or damaged.
    """
    content = _read_object(path) or {}
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path}: is not {what}: {where}: {first['msg']}") from None


def _held(lock: Path) -> str:
    """The status of a run that claims to be running: whether a process holds its lock."""
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
