"""Reading the files of a run without torch, for lists, comparisons and reports."""

import fcntl
import hashlib
import json
import math
import statistics
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PrivateAttr, ValidationError, field_validator

from toolkit.errors import RunError
from toolkit.files import new_file, opened, read_json, read_text, settle, write_json
from toolkit.runs.layout import COST, LOCK


class ScoreFile(BaseModel):
    """A score as `toolkit evaluate` writes it, with how it was measured, without which it means nothing.

    Attributes:
        values: named numbers, the one that people quote first; see `Score`.
        curves: named lists of numbers.
        better: the values by which models can be ranked, and whether "higher" or "lower" is better.
        notes: caveats about the numbers.
        fingerprint: a hash of the protocol: scores can be compared if theirs are equal.
        protocol: how it was measured: metric, features, real examples, how many were generated.
        sampling: how the samples were made: sampler, start, guidance, weights, seed; None for existing
            images. It belongs to what was measured, as the model does: scores can be compared all the same.
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
    sampling: dict[str, Any] | None
    model: dict[str, Any]
    _picture: Any = PrivateAttr(None)  # a PIL image, of a score measured just now

    @field_validator("protocol")
    @classmethod
    def _of_tables(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        for name in ("generated", "real"):
            if not isinstance(protocol.get(name) or {}, dict):
                raise ValueError(f"{name} is not a table")
        return protocol

    @classmethod
    def measured(
        cls, metric: str, values: Mapping[str, float], better: Mapping[str, Any],
        protocol: Mapping[str, Any], sampling: Mapping[str, Any] | None, model: Mapping[str, Any],
        curves: Mapping[str, Sequence[float]] | None = None, notes: Sequence[str] = (), picture: Any = None,
    ) -> Self:  # fmt: skip
        """A score measured just now, maybe with a PIL image; its fingerprint is a hash of the protocol."""
        fingerprint = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
        score = cls(
            metric=metric, time=time.time(), values=dict(values), better=dict(better), notes=list(notes),
            curves={name: list(curve) for name, curve in (curves or {}).items()}, fingerprint=fingerprint[:8],
            protocol=dict(protocol), sampling=None if sampling is None else dict(sampling), model=dict(model),
        )  # fmt: skip
        score._picture = picture
        return score

    def is_of(self, pipeline: Mapping[str, Any]) -> bool:
        """Whether it was measured on the weights that a pipeline.json describes, at the same step."""
        return all(self.model.get(name) == pipeline.get(name) for name in ("steps", "weights"))

    def path_in(self, folder: Path) -> Path:
        """Its JSON file in a folder of scores: one per protocol, model and way to sample it.

        The picture of a score that has one lies beside it, as a PNG of the same name.
        """
        of = json.dumps([self.model.get("identity"), self.sampling], sort_keys=True)
        measured = hashlib.sha256(of.encode()).hexdigest()[:8]
        return folder / f"{self.metric}-{self.fingerprint}-{measured}.json"

    def write(self, folder: Path) -> Path:
        """Write the file and the picture, if there is one; returns the file's path."""
        path = self.path_in(folder)
        if self._picture is not None:
            with new_file(path.with_suffix(".png")) as temporary:
                self._picture.save(temporary, format="PNG")
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
        outdated: metrics of which an earlier version of the toolkit wrote scores: to be measured again.
        cost: None without a cost.json.
        pipeline: the content of its pipeline.json; None for a run without a pipeline.
        age: seconds since something was last written.
        records: the lines of metrics.jsonl.
        damaged: how many other lines it has, which cannot be read.
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
    outdated: tuple[str, ...] = ()
    damaged: int = 0

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
        speeds = self._all("images_per_second")
        return statistics.median(speeds) if speeds else None

    @property
    def train_seconds(self) -> float | None:
        """Wall time of training, summed over the parts of a resumed run, each of which restarts the clock."""
        return self._summed("seconds")

    @property
    def processor_seconds(self) -> float | None:
        """Processor time of training on the main process, summed likewise."""
        return self._summed("processor_seconds")

    def _summed(self, name: str) -> float | None:
        clock = self._all(name)
        ends = [now for now, after in zip(clock, [*clock[1:], 0.0], strict=False) if after < now]
        return sum(ends) if clock else None

    def _all(self, name: str) -> list[float]:
        return [value for record in self.records if (value := record.get(name)) is not None]


class _State(BaseModel):
    """The content of run.json."""

    status: str
    step: Annotated[int, Field(ge=0, lt=2**63)]
    time: FiniteFloat


class _Described(BaseModel):
    """A pipeline.json; its first fields are those that reports compute with."""

    model_config = ConfigDict(extra="allow")

    role: str = ""
    sample_shape: tuple[int, ...] = ()
    image_shape: tuple[int, ...] | None = None


def read_run(folder: Path) -> RunSummary:
    """Read a run folder.

    Raises:
        RunError: if there is no run, or one of its files is not what a run writes, or a link.
    """
    settle(folder)
    if not all((folder / name).exists() for name in ("recipe.toml", "run.json")):
        raise RunError(f"{folder}: no run here: it has no recipe.toml and run.json")
    recipe, state = read_tables(folder / "recipe.toml"), _read(folder / "run.json", _State, "a run's state")
    status, step, written = state.status, state.step, state.time
    records, damaged = read_records(folder / "metrics.jsonl")
    if status == "running":
        step = max([step, *(record["step"] for record in records)])
        status = _held(folder / LOCK)
    if (folder / "metrics.jsonl").exists():
        written = max(written, (folder / "metrics.jsonl").stat().st_mtime)
    scores, pipeline, described = scores_of(folder), None, folder / "pipeline" / "pipeline.json"
    if described.exists():  # maybe as a link: the Hub's cache consists of them
        pipeline = _read(described, _Described, "the description of a pipeline", follow=True).model_dump()
    stale = tuple(score for score in scores if pipeline is not None and not score.is_of(pipeline))
    return RunSummary(
        folder, status, step, time.time() - written, recipe, tuple(records),
        tuple(score for score in scores if score not in stale),
        cost=_read(folder / COST, Cost, "a cost") if (folder / COST).exists() else None,
        pipeline=pipeline, stale=stale, outdated=outdated_scores(folder), damaged=damaged,
    )  # fmt: skip


def read_tables(path: Path) -> dict[str, Any]:
    """The sections of a run's recipe.toml, each a table.

    Raises:
        RunError: if it cannot be read, or is no recipe.
    """
    try:
        recipe = tomllib.loads(read_text(path, follow=False))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    for name, section in recipe.items():
        if not isinstance(section, dict):
            raise RunError(f"{path}: is not a run's recipe: {name} is not a table")
    return recipe


def scores_of(run: Path) -> tuple[ScoreFile, ...]:
    """The scores in a run folder, in the order in which they were measured; without outdated ones.

    Raises:
        RunError: if one cannot be read.
    """
    files = [path for path in sorted((run / "scores").glob("*.json")) if _outdated(path) is None]
    scores = [_read(path, ScoreFile, "a score of toolkit evaluate") for path in files]
    return tuple(sorted(scores, key=lambda score: score.time))


def outdated_scores(run: Path) -> tuple[str, ...]:
    """The metrics of which a run folder has scores in the form of an earlier version of the toolkit."""
    metrics = [_outdated(path) for path in sorted((run / "scores").glob("*.json"))]
    return tuple(dict.fromkeys(metric for metric in metrics if metric is not None))


def _outdated(path: Path) -> str | None:
    """The metric of a score whose protocol still says how samples were made; None if it is of this form."""
    score = read_json(path, RunError)
    old = isinstance(score, dict) and "sampling" not in score and isinstance(score.get("protocol"), dict)
    return str(score.get("metric")) if old else None


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
    except (RunError, OSError) as error:
        age = time.time() - (folder / "run.json").lstat().st_mtime
        return RunSummary(folder, f"unreadable: {error}", 0, age, {}, (), ())


def read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records in a metrics.jsonl, and how many of its lines are damaged.

    A last line without its end is neither: the process was killed while it wrote, or is just writing.

    Raises:
        RunError: if there is a file that cannot be read.
    """
    if not path.exists():
        return [], 0
    try:
        lines = read_text(path, follow=False, errors="replace").split("\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from None
    records = [_record(line) for line in lines]
    whole = [record for record in records if record is not None]
    return whole, sum(record is None for record in records[:-1])


def _record(line: str) -> dict[str, Any] | None:
    """The numbers by name in a line, the step among them; None if it has anything else, also in a name."""
    try:
        record = json.loads(line)
        usable = (
            "\N{REPLACEMENT CHARACTER}" not in line  # for a byte that is not text; we write ASCII
            and isinstance(record, dict)
            and isinstance(record.get("step"), int)
            and all(v is None or math.isfinite(v) for v in record.values())
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return record if usable else None


M = TypeVar("M", bound=BaseModel)


def _read(path: Path, model: type[M], what: str, *, follow: bool = False) -> M:
    """Parse a file into the model that wrote it.

    Raises:
        RunError: if the file is of another kind, or damaged.
    """
    content = read_json(path, RunError, follow=follow)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path}: is not {what}: {where}: {first['msg']}") from None


def _held(lock: Path) -> str:
    """The status of a run that claims to be running: whether a process holds its lock."""
    try:
        with opened(lock, follow=False) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except FileNotFoundError:
        return "killed"
    except OSError:  # not ours to open, or a file system without locks
        return "running or unknown"
    return "killed"
