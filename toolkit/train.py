"""A run from recipe to pipeline: what happens around the trainer's steps."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from toolkit import checkpoint
from toolkit.build import Built, build
from toolkit.compare import differences
from toolkit.console import TrainingDisplay, console, track, training_display
from toolkit.data.batches import Batches
from toolkit.errors import CheckpointError, RunError, TrainingError
from toolkit.files import check_space
from toolkit.measure import measure
from toolkit.options import CheckpointOptions, DataOptions, RunOptions, TrackerOptions
from toolkit.plugins import Plugins
from toolkit.previews import Previews
from toolkit.processes import Processes
from toolkit.recipe import Recipe
from toolkit.run import RunFolder
from toolkit.trainer import Trainer

HELD_OUT_ROWS = 2048  # rows that a measure looks at


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `signal` is None unless it was asked to stop."""

    folder: Path
    step: int
    signal: int | None
    grid: Path | None
    main: bool  # whether this process speaks for all


def train(recipe: Recipe, plugins: Plugins, *, resume: bool = False, overwrite: bool = False) -> Outcome:
    """Train what the recipe says, in its run folder.

    Args:
        recipe: resolved and validated.
        plugins: the loaded ones.
        resume: go on from the newest complete checkpoint.
        overwrite: replace a run that is there.

    Raises:
        ToolkitError: for everything that a user can have done wrong; nothing has been computed then.
    """
    options: RunOptions = recipe.common(("run",))
    trackers: TrackerOptions = recipe.common(("trackers",))
    folder = RunFolder(options.out or Path("runs") / recipe.name)
    processes = Processes(options, trackers, folder.path)
    cleanly = False
    try:
        if processes.is_main:
            if resume:
                refuse_another_recipe(recipe, folder)
            folder.claim(resume=resume, overwrite=overwrite)
        processes.barrier()
        run = Run(recipe, plugins, options, folder, processes)
        outcome = run.go(resume=resume)
        cleanly = True
        return outcome
    finally:
        folder.release()
        processes.close(cleanly=cleanly)


class Run:
    """One training run on this process."""

    def __init__(
        self, recipe: Recipe, plugins: Plugins, options: RunOptions, folder: RunFolder, processes: Processes
    ) -> None:
        self.recipe, self.plugins, self.options = recipe, plugins, options
        self.folder, self.processes = folder, processes
        self.checkpoints: CheckpointOptions = recipe.common(("checkpoints",))
        self.built: Built = build(recipe, processes.device)
        data: DataOptions = recipe.common(("data",))
        shown, seed, device = track if processes.is_main else None, options.seed, processes.device
        self.batches = Batches(self.built.source, data, seed=seed, device=device, progress=shown)
        held_out, unflipped = self.built.source.held_out(), replace(data, flip=False)
        self.held_out: Batches | None = None
        if held_out is not None:
            self.held_out = Batches(held_out, unflipped, seed=seed, device=device, progress=shown)
        self.held_out_rows = 0 if held_out is None else min(len(held_out), HELD_OUT_ROWS)
        self.previews = Previews(recipe, self.built, plugins.registry, processes)
        self.trainer = Trainer(self.built.training, self.batches, processes, options)
        self.facts = {"examples": len(self.built.source), "shape": list(self.built.source.image_shape)}
        self.grid: Path | None = None
        self._started = time.monotonic()
        self._since = (time.monotonic(), 0)

    def go(self, *, resume: bool) -> Outcome:
        """Train until the recipe's end, or until asked to stop."""
        if resume:
            self._resume()
        first, last = self.trainer.number, self._last_step()
        if self.processes.is_main:
            check_space(self.folder.path, self._checkpoint_bytes())
            self.folder.describe(
                self.recipe, {r.name: f"{r.distribution} {r.version}" for r in self.plugins.reports}
            )
            self.folder.set_status("running", first)
        self.processes.start_trackers(self.recipe.tables["trackers"]["project"], flat(self.recipe.tables))
        self._tell(self.plugins.hook.toolkit_run_started)
        self.batches.plan(self.trainer.requests(last))
        self._since = (time.monotonic(), first)
        with (
            stop_signals() as stop,
            training_display(first, last, self.options.batch_size, shown=self.processes.is_main) as display,
        ):
            try:
                self._loop(last, stop, display)
            except TrainingError as error:
                raise self._failed(error) from None
            self._finish(display, stopped=bool(stop))
        return Outcome(
            self.folder.path,
            self.trainer.number,
            stop[0] if stop else None,
            self.grid,
            self.processes.is_main,
        )

    def _loop(self, last: int | None, stop: list[int], display: TrainingDisplay) -> None:
        trainer, saved = self.trainer, None
        while (last is None or trainer.number < last) and not self._ends(stop):
            trainer.step()
            number = trainer.number
            display.step(number)
            if number % self.options.log_every == 0:
                self._log(display)
            if due(number, self.options.measure_every):
                self._measure()
            if due(number, self.previews.options.every) and number != last:
                self._sample()
            if due(number, self.checkpoints.every):
                self._save()
                saved = number
        if saved != trainer.number:
            self._save()

    def _ends(self, stop: list[int]) -> bool:
        """Whether time is up or someone asked to stop; processes agree on it every few steps."""
        minutes = self.options.minutes
        over = bool(stop) or (minutes is not None and time.monotonic() - self._started > 60 * minutes)
        if self.processes.count == 1:
            return over
        return self.trainer.number % 10 == 0 and self.processes.any(over)

    def _last_step(self) -> int | None:
        by_images = (
            None if self.options.images is None else -(-self.options.images // self.options.batch_size)
        )
        ends = [end for end in (self.options.steps, by_images) if end is not None]
        return min(ends, default=None)

    def _resume(self) -> None:
        path, complaints = checkpoint.newest(self.folder.checkpoints)
        if self.processes.is_main:
            for complaint in complaints:
                console.print(f"[yellow]passed over[/] {complaint}")
        if path is None:
            raise CheckpointError(f"{self.folder.path}: has no complete checkpoint to resume from")
        self.trainer.number = checkpoint.load(path, self.built.training, self.facts)
        if self.processes.is_main:
            self.folder.forget_after(self.trainer.number)
            console.print(f"resuming from {path}")

    def _log(self, display: TrainingDisplay) -> None:
        logs, number = self.trainer.take_logs(), self.trainer.number
        now, (then, before) = time.monotonic(), self._since
        self._since = (now, number)
        speed = (number - before) * self.options.batch_size / max(now - then, 1e-9)
        self._record({**logs, "images_per_second": speed, "seconds": now - self._started})
        display.logs(number, logs)
        self._tell(self.plugins.hook.toolkit_step_done, step=number, logs=logs)

    def _record(self, values: Mapping[str, float]) -> None:
        number = self.trainer.number
        if self.processes.is_main:
            self.folder.record({"step": number, "images": number * self.options.batch_size, **values})
        self.processes.track(dict(values), number)

    def _agree(self) -> None:
        """Before anything is kept: losses were finite, and all processes hold the same networks."""
        self.trainer.check_finite()
        training = self.built.training
        modules = [*training.networks.values(), *(ema.network for ema in training.averages.values())]
        self.processes.broadcast_state(modules, buffers_only=True)
        self.processes.must_agree({r: n for r, n in training.networks.items() if r in training.optimizers})

    def _save(self) -> None:
        self._agree()
        if self.processes.is_main:
            path = checkpoint.save(
                self.folder.checkpoints, self.built.training, self.trainer.number, self.facts
            )
            checkpoint.prune(self.folder.checkpoints, self.checkpoints.keep_last, self.checkpoints.keep_every)
            self._tell(self.plugins.hook.toolkit_checkpoint_saved, path=path)
        self.processes.barrier()

    def _measure(self) -> None:
        if self.held_out is None or not self.built.training.objective.measures():
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
        """What is due at the end and was not yet done at the last step."""
        if self.trainer.number % self.options.log_every:
            self._log(display)
        if not stopped:
            if not due(self.trainer.number, self.options.measure_every):
                self._measure()
            display.say("sampling the final grid ...")
            self._sample()
        pipeline = self.previews.pipeline(self.trainer.number, average=True)
        if self.processes.is_main:
            if pipeline is not None:
                pipeline.save_pretrained(self.folder.pipeline)
            self.folder.set_status("stopped" if stopped else "finished", self.trainer.number)
        self._tell(self.plugins.hook.toolkit_run_ended)
        self.batches.close()
        self.processes.barrier()

    def _failed(self, error: TrainingError) -> TrainingError:
        path, _ = checkpoint.newest(self.folder.checkpoints)
        last = f"The last checkpoint is {path}." if path is not None else "There is no checkpoint yet."
        if self.processes.is_main:
            self.folder.set_status("failed", self.trainer.number)
        return TrainingError(f"{error}. {last}")

    def _checkpoint_bytes(self) -> int:
        training = self.built.training
        modules = [*training.networks.values(), *(ema.network for ema in training.averages.values())]
        weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
        return 3 * weights  # weights, EMA, and Adam's two moments of what is trained, with some room

    def _tell(self, observers: Callable[..., object], **facts: object) -> None:
        """Tell observers; one that fails is reported and does not stop the run."""
        if self.processes.is_main:
            try:
                observers(run=self.folder.path, **facts)
            except Exception as error:
                console.print(f"[yellow]an observer failed[/] {type(error).__name__}: {error}")


def due(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as `a.b.c` keys, for trackers."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return found


def refuse_another_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """A run can be resumed longer, elsewhere or with other cadences, but not as another run.

    Raises:
        RunError: if there is no run, or naming what differs.
    """
    if not folder.recipe.is_file():
        raise RunError(f"{folder.path}: there is no run to resume")
    differing = differences(folder.recipe, recipe)
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise CheckpointError(f"{folder.path}: its checkpoints are of another recipe: {shown}")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The first SIGTERM or Ctrl-C is noted in the list; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
