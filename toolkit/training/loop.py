"""A run from recipe to pipeline: what happens around the trainer's steps."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from toolkit.console import TrainingDisplay, say, track, training_display
from toolkit.data.batches import Batches, DataOptions
from toolkit.errors import RunError, TrainingError
from toolkit.files import check_space
from toolkit.recipe import Recipe
from toolkit.registry.load import Plugins
from toolkit.runs.folder import RunFolder, Status
from toolkit.training import checkpoint
from toolkit.training.build import settled
from toolkit.training.checkpoint import CheckpointOptions
from toolkit.training.measure import measure
from toolkit.training.processes import Processes, TrackerOptions
from toolkit.training.result import Previews
from toolkit.training.resume import identity, last_step, refuse_another_recipe, refuse_finished
from toolkit.training.session import Session, session
from toolkit.training.trainer import RunOptions, share

HELD_OUT_ROWS = 2048  # rows that a measure looks at


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `signal` is the one that asked it to stop, None if it ran to its end."""

    folder: Path
    step: int
    signal: int | None
    grid: Path | None
    main: bool  # whether this is the main process, which reports for all


def train(recipe: Recipe, plugins: Plugins, *, resume: bool = False, overwrite: bool = False) -> Outcome:
    """Train by a recipe, in its run folder.

    Args:
        recipe: resolved and validated.
        plugins: all that are loaded.
        resume: continue from the newest complete checkpoint.
        overwrite: replace an existing run.

    Raises:
        ToolkitError: for every mistake of the user, before anything is computed. A run that was to be
            replaced is then still there, unless the mistake is a tracker that cannot be started.
        TrainingError: if a loss or a weight is not finite, or processes disagree.
    """
    options: RunOptions = recipe.common(("run",))
    trackers: TrackerOptions = recipe.common(("trackers",))
    folder = RunFolder(options.out or Path("runs") / recipe.name)
    with Processes(
        options.device, options.precision, trackers, folder.trackers,
        tf32=options.tf32, cudnn_benchmark=options.cudnn_benchmark,
    ) as processes:  # fmt: skip
        recipe = settled(recipe, processes.device)
        share(options, processes.count)

        def claim() -> None:
            if resume:
                refuse_another_recipe(recipe, folder.recipe)
                refuse_finished(folder, last_step(options))
            folder.claim(resume=resume, overwrite=overwrite)

        try:
            processes.on_main(claim)
            shown = track if processes.is_main else None
            with session(recipe, processes, options, progress=shown) as ready:
                return Run(recipe, plugins, options, folder, ready).go(resume=resume, overwrite=overwrite)
        finally:
            folder.release()


class Run:
    """One training run on this process."""

    def __init__(
        self, recipe: Recipe, plugins: Plugins, options: RunOptions, folder: RunFolder, ready: Session
    ) -> None:
        self.recipe, self.plugins, self.options, self.folder = recipe, plugins, options, folder
        self.processes, self.built = ready.processes, ready.built
        self.batches, self.trainer, self.computes = ready.batches, ready.trainer, ready.computes()
        self.checkpoints: CheckpointOptions = recipe.common(("checkpoints",))
        self.held_out = self._held_out()
        self.previews = Previews(recipe, self.built, plugins.registry, self.processes)
        self.facts = {**identity(self.built.source), "micro_batch": self.trainer.micro_batch}
        self.agreement = Agreement(self.processes)
        self.grid: Path | None = None
        self._status: Status = "failed"  # until it has gone well
        self._started = time.monotonic()
        self._since = (time.monotonic(), 0)

    def _held_out(self) -> Batches | None:
        """The data for measures; None if the objective has no measures, or the data no held-out examples."""
        measured = bool(self.built.training.objective.measures())
        source = self.built.source.held_out() if measured else None
        if source is None:
            return None
        self.held_out_rows = min(len(source), HELD_OUT_ROWS)
        options: DataOptions = self.recipe.common(("data",))
        return Batches(
            source, replace(options, flip=False), seed=self.options.seed, device=self.processes.device,
            progress=track if self.processes.is_main else None, encode=self.built.encode,
        )  # fmt: skip

    def go(self, *, resume: bool, overwrite: bool) -> Outcome:
        """Train until the recipe's end, or until asked to stop."""
        if resume:
            self._resume()
        first, last = self.trainer.number, last_step(self.options)
        self.processes.on_main(partial(self._prepare, overwrite=overwrite))
        self.processes.start_trackers(self.recipe.tables["trackers"]["project"], flat(self.recipe.tables))
        self._tell("toolkit_run_started")
        self.batches.plan(self.trainer.requests(last))
        self._since = (time.monotonic(), first)
        shown = self.processes.is_main
        try:
            with training_display(first, last, self.options.batch_size, visible=shown) as display:
                with stop_signals() as stop:
                    self._loop(last, stop, display, saved=first if resume else None)
                stopped = self.processes.any(bool(stop))  # a signal may have reached only some processes
                self._finish(display, stopped=stopped)
        except TrainingError as error:
            raise TrainingError(f"{str(error).rstrip('.')}. {self._last_checkpoint()}") from None
        finally:
            self._end()
        number = (stop[0] if stop else signal.SIGTERM) if stopped else None
        return Outcome(self.folder.path, self.trainer.number, number, self.grid, shown)

    def _prepare(self, *, overwrite: bool) -> None:
        check_space(self.folder.path, self._checkpoint_bytes())
        if overwrite:
            self.folder.clear()
        versions = {report.owner.name: report.owner.source for report in self.plugins.reports}
        self.folder.describe(self.recipe, versions, self.computes)
        self.folder.set_status("running", self.trainer.number)

    def _loop(
        self, last: int | None, stop: list[int], display: TrainingDisplay, *, saved: int | None
    ) -> None:
        trainer = self.trainer
        while (last is None or trainer.number < last) and not self._ends(stop):
            trainer.step()
            number = trainer.number
            display.step(number)
            if number % self.options.log_every == 0:
                self._log(display)
            if due(number, self.options.measure_every):
                self._measure()
            if due(number, self.checkpoints.every):
                self._save()
                saved = number
            if due(number, self.previews.options.every) and number != last:
                self._sample()
        if stop:
            display.say(f"stopping after step {trainer.number} ...")
        if saved != trainer.number:
            self._save()

    def _ends(self, stop: list[int]) -> bool:
        """Whether time is up or someone asked to stop."""
        minutes = self.options.minutes
        over = bool(stop) or (minutes is not None and time.monotonic() - self._started > 60 * minutes)
        return self.agreement.over(self.trainer.number, over)

    def _resume(self) -> None:
        """Resume from one checkpoint: the main process chooses it, all others load the same."""
        training, folder = self.built.training, self.folder.checkpoints

        def choose() -> None:
            path, self.trainer.number, complaints = checkpoint.load_newest(folder, training, self.facts)
            for complaint in complaints:
                say(complaint, "passed over")
            say(f"resuming from {path}")
            if damaged := self.folder.forget_after(self.trainer.number):
                say(f"{self.folder.metrics}: {damaged} damaged lines are left out", "note")

        def follow() -> None:
            checkpoint.load(folder / checkpoint.folder_name(chosen), training, self.facts)
            self.trainer.number = chosen

        self.processes.on_main(choose)
        chosen = int(
            self.processes.gather(torch.tensor(self.trainer.number, device=self.processes.device))[0]
        )
        self.processes.together(follow if not self.processes.is_main else lambda: None)

    def _log(self, display: TrainingDisplay) -> None:
        logs, number = self.trainer.take_logs(), self.trainer.number
        if not logs:
            return  # no step since the last record
        now, (then, before) = time.monotonic(), self._since
        self._since = (now, number)
        speed = (number - before) * self.options.batch_size / max(now - then, 1e-9)
        self._record({**logs, "images_per_second": speed, "seconds": now - self._started})
        display.logs(number, logs)
        self._tell("toolkit_step_done", step=number, logs=logs)

    def _record(self, values: Mapping[str, float]) -> None:
        number = self.trainer.number
        if self.processes.is_main:
            self.folder.record({"step": number, "images": number * self.options.batch_size, **values})
        self.processes.track(dict(values), number)

    def _agree(self) -> None:
        """Check, before anything is kept, that losses and weights are finite and agree on all processes."""
        self.trainer.check_finite()
        self.trainer.check_weights()
        training = self.built.training
        modules = [*training.networks.values(), *(ema.network for ema in training.ema.values())]
        self.processes.broadcast_state(modules, buffers_only=True)
        averages = {f"average of {role}": ema.network for role, ema in training.ema.items()}
        self.processes.must_agree({**training.networks, **averages, "objective": training.objective})

    def _save(self) -> None:
        self._agree()
        self.processes.on_main(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        folder, number, keep = self.folder.checkpoints, self.trainer.number, self.checkpoints
        path = checkpoint.save(folder, self.built.training, number, self.facts)
        checkpoint.prune(folder, number, keep.keep_last, keep.keep_every)
        self._tell("toolkit_checkpoint_saved", path=path)

    def _measure(self) -> None:
        if self.held_out is None:
            return
        self._agree()
        rows = self.held_out_rows
        values = measure(
            self.built.training, self.held_out, rows, min(self.trainer.micro_batch, rows),
            self.options.seed, self.trainer.number, self.processes,
        )  # fmt: skip
        self._record({f"held_out/{name}": value for name, value in values.items()})

    def _sample(self) -> None:
        self._agree()
        self.grid = self.previews.save(self.trainer.number, self.folder.samples) or self.grid

    def _finish(self, display: TrainingDisplay, *, stopped: bool) -> None:
        """Do what is due at the end and was not already done at the last step."""
        if self.trainer.number % self.options.log_every:
            self._log(display)
        self.processes.on_main(partial(self.previews.keep, self.trainer.number, self.folder.path))
        if not stopped:
            if not due(self.trainer.number, self.options.measure_every):
                self._measure()
            if self.previews.any:
                display.say("sampling the final grid ...")
            self._sample()
        self._status = "stopped" if stopped else "finished"
        self.processes.barrier()

    def _end(self) -> None:
        """Record the end, also after a failure; waits for no other process, which may be gone."""
        if self.processes.is_main:
            with suppress(RunError):  # the cause is already being reported
                self.folder.set_status(self._status, self.trainer.number)
        self._tell("toolkit_run_ended")

    def _last_checkpoint(self) -> str:
        path, _ = checkpoint.newest(self.folder.checkpoints)
        return "There is no checkpoint yet." if path is None else f"The last checkpoint is {path}."

    def _checkpoint_bytes(self) -> int:
        training = self.built.training
        modules = [*training.networks.values(), *(ema.network for ema in training.ema.values())]
        weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
        return 3 * weights  # networks, averages and Adam's two moments, with some room

    def _tell(self, observer: str, **facts: object) -> None:
        """Notify observers, on the main process; one that fails is reported and does not stop the run."""
        if self.processes.is_main:
            self.plugins.tell(observer, run=self.folder.path, **facts)


def due(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as `a.b.c` keys, for trackers."""
    flattened: dict[str, Any] = {}
    for key, value in tables.items():
        flattened |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
        )
    return flattened


AGAIN = 1.0  # seconds: torchrun repeats the Ctrl-C that the terminal has already sent to every process

AGREE = 2.0  # seconds between two exchanges of processes on whether to stop


class Agreement:
    """Whether the run is over, the same on every process.

    One process need not ask. Several ask each other every few steps, so many that they take about `AGREE`
    seconds on the slowest: asking every step would stall a GPU, and a fixed number may be minutes on a CPU.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._next = 0  # the step before which they ask again
        self._asked = (time.monotonic(), 0)

    def over(self, number: int, here: bool) -> bool:
        """Whether the run is over before step `number` on any process; `here`: on this one."""
        if self._processes.count == 1:
            return here
        if number < self._next:
            return False
        now, (then, before) = time.monotonic(), self._asked
        pace = (now - then) / max(1, number - before)
        answers = self._processes.gather(torch.tensor([float(here), pace], device=self._processes.device))
        slowest = float(answers[:, 1].max())
        self._asked = (now, number)
        self._next = number + (min(100, max(1, int(AGREE / max(slowest, 1e-6)))) if before else 1)
        return bool(answers[:, 0].any())


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGTERM or Ctrl-C in the list; a later Ctrl-C interrupts at once."""
    received: list[int] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
        elif number == signal.SIGINT and time.monotonic() - first > AGAIN:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
