"""Carrying a study out: what is missing is trained and scored, several jobs at once, each in its own process.

The folder of a study has one folder for each run and seed, and beside them

recipes/    the recipe of each run, complete: `toolkit train` takes it
costs.json  seconds of a step of the runs whose length is a time
trained/    by which recipe a run has been trained to its end
results/    scores and speeds, by run, seed and way to sample
scores/     the samples that were scored, by run, seed and how they were drawn
logs/       what each job has said
report.md, results.json and pictures
"""

import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.commands import (
    RunError,
    ToolkitError,
    read_json,
    read_run,
    say,
    write_json,
    write_text,
    write_toml,
)
from toolkit_study.plan import PlannedRun, Row, Study, filled, placeholders

GRACE = 120.0  # seconds for a job to save what it has, once it is asked to stop
POLL = 0.1
TURNS = 20  # in which steps are timed, and no more than a run may take steps
MAY_DIFFER = ("run.out", "run.device", "run.log_every")


@dataclass
class Job:
    """Something to be done once others are.

    Attributes:
        name: of it, for its log.
        after: the names of the jobs that it needs.
        task: for the worker; None for one that is done.
        done: whether its result is there.
        says: a line about the result.
    """

    name: str
    after: tuple[str, ...]
    task: Mapping[str, Any]
    done: Callable[[], bool]
    says: Callable[[], str]


@dataclass
class Folder:
    """Where everything of a study lies."""

    path: Path

    def run(self, name: str, seed: int) -> Path:
        return self.path / f"{name}-{seed}"

    def recipe(self, name: str, seed: int) -> Path:
        return self.path / "recipes" / f"{name}-{seed}.toml"

    def result(self, row: Row, seed: int) -> Path:
        return self.path / "results" / f"{row.slug}-{seed}.json"

    def digest(self, text: str) -> str:
        """A hash of what is asked for, the same wherever the folder lies."""
        return hashlib.sha256(text.replace(str(self.path), "").encode()).hexdigest()[:16]

    def folders(self, study: Study, seed: int) -> dict[str, Path]:
        """The folder of each run that one of that seed needs."""
        return {name: self.run(name, study.seed_of(name, seed)) for name in study.runs}


@dataclass
class Outcome:
    """How much was done: the names of jobs.

    Attributes:
        late: not begun, or stopped, because time was up.
        failed: with the end of what each has said.
        left_out: those that needed them.
    """

    late: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def jobs_of(study: Study, folder: Folder) -> list[Job]:
    """Everything that a study does, seed by seed, so that one that is stopped has whole seeds to compare."""
    jobs: list[Job] = []
    for number in range(max(len(run.seeds) for run in study.runs.values())):
        runs = [(run, run.seeds[number]) for run in study.runs.values() if number < len(run.seeds)]
        jobs += [training_of(study, run, seed, folder) for run, seed in runs]
        if "metrics" in study.protocol:
            jobs += [scoring_of(study, row, seed, folder) for run, seed in runs for row in run.rows]
    return jobs


def refuse_other_recipes(study: Study, folder: Folder) -> None:
    """Refuse a folder in which a run was begun by another recipe: it would go on as a mixture of the two.

    Raises:
        RunError: naming the runs, and what differs.
    """
    said = []
    for run in study.runs.values():
        for seed in run.seeds:
            path, out = folder.recipe(run.name, seed), folder.run(run.name, seed)
            if not (path.is_file() and (out / "run.json").is_file()):
                continue
            was = dict(_flat(tomllib.loads(path.read_text())))
            now = dict(_flat(tomllib.loads(write_toml(recipe_of(study, run, seed, folder)))))
            keys = [key for key in was.keys() & now.keys() if was[key] != now[key] and key not in MAY_DIFFER]
            said += [
                f"{out}: has {key} = {was[key]}, and the study says {now[key]}" for key in sorted(keys)[:3]
            ]
    if said:
        advice = "give another --out, or remove these runs"
        raise RunError("\n".join([*said, f"runs of other recipes are in the way: {advice}"]))


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables by dotted key."""
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def timing_of(study: Study, folder: Folder) -> Job | None:
    """What has to be timed before the lengths of all runs are known; None if they are."""
    names = study.to_time
    if not names:
        return None
    texts = {name: write_toml(recipe_of(study, study.runs[name], 0, folder)) for name in names}
    paths = {name: str(folder.path / "recipes" / f"{name}-timed.toml") for name in names}
    result, digest = folder.path / "costs.json", folder.digest(json.dumps(texts, sort_keys=True))
    task = {
        "kind": "time", "recipes": paths, "texts": texts, "result": str(result), "digest": digest,
        "turns": min(TURNS, study.most_steps or TURNS),
    }  # fmt: skip

    def says() -> str:
        costs = read_json(result)["seconds"]
        return "seconds of a step: " + ", ".join(f"{name} {cost:.3g}" for name, cost in costs.items())

    return Job("costs", (), task, lambda: _stamped(result, digest), says)


def recipe_of(study: Study, run: PlannedRun, seed: int, folder: Folder) -> dict[str, Any]:
    """The complete recipe of a run."""
    tables: dict[str, Any] = filled(run.tables, folder.folders(study, seed))
    return {**tables, "run": {**tables["run"], "seed": seed, "out": str(folder.run(run.name, seed))}}


def training_of(study: Study, run: PlannedRun, seed: int, folder: Folder) -> Job:
    """Training a run."""
    path, out = folder.recipe(run.name, seed), folder.run(run.name, seed)
    text = write_toml(recipe_of(study, run, seed, folder))
    after = tuple(f"{name}-{study.seed_of(name, seed)}" for name in run.after)

    def says() -> str:
        summary = read_run(out)
        spent = summary.processor_seconds
        return f"{summary.step:,} steps" + (f", {spent:,.0f} s of processor time" if spent else "")

    stamp, digest = folder.path / "trained" / f"{out.name}.json", folder.digest(text)
    task = {
        "kind": "train",
        "recipe": str(path),
        "text": text,
        "stamp": str(stamp),
        "digest": digest,
    }
    return Job(f"{run.name}-{seed}", after, task, lambda: _finished(out) and _stamped(stamp, digest), says)


def _finished(run: Path) -> bool:
    return (run / "run.json").is_file() and read_run(run).status == "finished"


def _stamped(path: Path, digest: str) -> bool:
    """Whether a file is there and says that it is of what is asked for."""
    return path.is_file() and read_json(path).get("digest") == digest


def scoring_of(study: Study, row: Row, seed: int, folder: Folder) -> Job:
    """Scoring a run in one way."""
    run = study.runs[row.run]
    folders = folder.folders(study, seed)
    needed = dict.fromkeys([run.name, *placeholders([dict(row.parts), dict(study.protocol)])])
    trained = [(name, study.seed_of(name, seed)) for name in needed]
    recipes = [write_toml(recipe_of(study, study.runs[name], at, folder)) for name, at in trained]
    protocol, parts = filled(dict(study.protocol), folders), filled(dict(row.parts), folders)
    result = folder.result(row, seed)
    digest = folder.digest(json.dumps([recipes, protocol, parts, study.split], sort_keys=True))
    # Samples that another metric can use again, but no other way to draw them.
    drawn = folder.digest(json.dumps([recipes, protocol.get("images"), parts], sort_keys=True))
    task = {
        "kind": "score", "run": str(folders[run.name]), "protocol": protocol, "parts": parts,
        "split": study.split,
        "device": run.tables["run"]["device"], "out": str(folder.path / "scores" / f"{result.stem}-{drawn}"),
        "result": str(result), "digest": digest,
    }  # fmt: skip

    def says() -> str:
        first = next(iter(read_json(result)["scores"]))["values"]
        return ", ".join(f"{name} {value:.4g}" for name, value in list(first.items())[:1])

    return Job(
        f"{row.slug}-{seed}-scores",
        tuple(f"{name}-{at}" for name, at in trained),
        task,
        lambda: _stamped(result, digest),
        says,
    )


def carry_out(jobs: list[Job], folder: Folder, *, at_once: int, threads: int, until: float | None) -> Outcome:
    """Do all jobs that are not done.

    Args:
        at_once: jobs that run at the same time, each in a process of its own; 0 does all in this process.
        threads: of each.
        until: when to stop, by time.monotonic(); jobs that are not done then save what they have.

    Raises:
        KeyboardInterrupt: once all jobs have saved what they have.
    """
    outcome, running = Outcome(), dict[str, subprocess.Popen[bytes]]()
    waiting = {job.name: job for job in jobs if not job.done()}
    by_name, total, number = dict(waiting), len(jobs), len(jobs) - len(waiting)
    if number:
        say(f"{number} of {total} are done already")
    if at_once == 0:
        for job in waiting.values():
            number += 1
            _do_here(job, folder, outcome, f"[{number}/{total}]", until)
        return outcome
    try:
        while waiting or running:
            late = until is not None and time.monotonic() > until
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    number += 1
                    _settle(by_name[name], process.returncode, folder, outcome, f"[{number}/{total}]")
            if late:
                outcome.late = [*running, *waiting]
                break
            for job in list(_ready(waiting, running, outcome)):
                if len(running) < at_once:
                    del waiting[job.name]
                    running[job.name] = _begin(job, folder, threads)
            time.sleep(POLL)
    finally:
        _stop(running)
    return outcome


def _ready(waiting: dict[str, Job], running: Mapping[str, Any], outcome: Outcome) -> Iterator[Job]:
    """The jobs for which everything is there; those for which something failed are left out."""
    for job in list(waiting.values()):
        if any(name in outcome.failed or name in outcome.left_out for name in job.after):
            del waiting[job.name]
            outcome.left_out.append(job.name)
        elif not any(name in waiting or name in running for name in job.after):
            yield job


def _do_here(job: Job, folder: Folder, outcome: Outcome, count: str, until: float | None) -> None:
    """Do a job in this process, unless it is late or something that it needs has failed."""
    from toolkit_study.worker import work  # with torch, which other processes do without

    if until is not None and time.monotonic() > until:
        outcome.late.append(job.name)
    elif any(name in outcome.failed or name in outcome.left_out for name in job.after):
        outcome.left_out.append(job.name)
    else:
        _prepare(job, folder)
        code = 0
        try:
            work(job.task)
        except ToolkitError as error:
            code = 1
            write_text(folder.path / "logs" / f"{job.name}.log", f"error: {error}\n")
        _settle(job, code, folder, outcome, count)


def _prepare(job: Job, folder: Folder) -> Path:
    """Write what a job needs; returns the file of its task."""
    task = folder.path / "logs" / f"{job.name}.json"
    write_json(task, job.task)
    if job.task["kind"] == "train":
        write_text(Path(job.task["recipe"]), job.task["text"])
    if job.task["kind"] == "time":
        for name, path in job.task["recipes"].items():
            write_text(Path(path), job.task["texts"][name])
    return task


def _begin(job: Job, folder: Folder, threads: int) -> "subprocess.Popen[bytes]":
    task, log = _prepare(job, folder), folder.path / "logs" / f"{job.name}.log"
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, count), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "toolkit_study.worker", str(task)],
            stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, start_new_session=True,
        )  # fmt: skip


def _settle(job: Job, code: int, folder: Folder, outcome: Outcome, count: str) -> None:
    if code == 0 and job.task["kind"] == "train":
        write_json(Path(job.task["stamp"]), {"digest": job.task["digest"]})
    if code == 0 and job.done():
        say(f"{count} {job.name}: {job.says()}")
        return
    log = folder.path / "logs" / f"{job.name}.log"
    said = log.read_text(errors="replace") if log.is_file() else ""
    last = [line for line in said.splitlines() if line.strip()][-3:]
    outcome.failed[job.name] = "\n".join(last) or f"ended with {code}"
    say(f"{count} {job.name} failed: see {log}", "failed")


def _stop(running: Mapping[str, "subprocess.Popen[bytes]"]) -> None:
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in running.values():
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
