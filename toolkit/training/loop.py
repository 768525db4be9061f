"""A run from recipe to pipeline: what happens around the trainer's steps."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import nn

from toolkit.console import TrainingDisplay, say, track, training_display
from toolkit.data.batches import Batches, DataOptions
from toolkit.data.identity import identity, remarks, summary
from toolkit.devices.launch import Stop, Stopped, stop_signals
from toolkit.devices.processes import Agreement, Processes, TrackerOptions
from toolkit.errors import (
    RecipeError,
    RunError,
    ToolkitError,
    TrainingError,
    nearest,
    one_line,
    out_of_memory,
)
from toolkit.files import check_space, digest, read_json
from toolkit.recipe import Recipe
from toolkit.registry.load import Plugins
from toolkit.runs.checkpoints import Best, best_among
from toolkit.runs.folder import RunFolder, Status
from toolkit.runs.layout import step_name
from toolkit.runs.read import read_records
from toolkit.runs.snapshots import forget_snapshots_after, write_snapshot
from toolkit.training import checkpoint
from toolkit.training.announce import Forecast, introduction
from toolkit.training.build import settled
from toolkit.training.checkpoint import CheckpointOptions
from toolkit.training.ema import EMAOptions
from toolkit.training.fit import fitting_micro_batch, relief
from toolkit.training.result import Previews, measure
from toolkit.training.resume import FINISHED, REPLACED, RESUMED, Beginning, refuse_unlike
from toolkit.training.session import Session, session
from toolkit.training.trainer import RunOptions, share

HELD_OUT_ROWS = 2048  # rows that a measure looks at
LAGGING = 0.05  # of the first weights in an average: with a third, samples were noise (measured)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: of the run.
        step: the last one that was taken.
        signal: the one that asked it to stop; None if it ran to its end.
        grid: the last grid of samples.
        main: whether this is the main process, which reports for all.
        ended: "stopped" has saved everything, "interrupted" has not; "untouched" did not begin.
        saved: the newest checkpoint.
        best: the best one, if the run keeps it.
    """

    folder: Path
    step: int
    signal: int | None
    grid: Path | None
    main: bool
    ended: Literal["finished", "stopped", "interrupted", "untouched"]
    saved: Path | None
    best: Best | None = None


def train(
    recipe: Recipe, plugins: Plugins, *, resume: bool | Literal["auto"] = False, overwrite: bool = False,
    changes: Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """Train by a recipe, in its run folder.

    Args:
        recipe: resolved and validated.
        plugins: all that are loaded.
        resume: continue from the newest complete checkpoint; "auto" also starts where there is none yet, and
            has nothing to do where the run is finished.
        overwrite: replace an existing run.
        changes: keys of the recipe that may be another than those of the run that is resumed.

    Raises:
        ToolkitError: for every mistake of the user, before anything is computed. A run that was to be
            replaced is then still there, unless the mistake is a tracker that cannot be started.
        TrainingError: if a loss or a weight is not finite, or processes disagree.
    """
    options: RunOptions = recipe.common(("run",))
    trackers: TrackerOptions = recipe.common(("trackers",))
    resumed = recipe.layers.run if resume else None  # a run that is named itself, wherever it lies
    out, here = options.out or resumed or Path("runs") / recipe.name, Path.cwd()
    folder = RunFolder(out.relative_to(here) if out.is_relative_to(here) else out)  # as it is shown
    main = os.environ.get("RANK", "0") == "0"
    answer = "stopping after this step, and saving (Ctrl-C again: at once, without)" if main else ""
    run: Run | None = None
    with stop_signals(answer) as stop:
        try:
            with Processes(
                options.device, options.precision, trackers, folder.trackers,
                tf32=options.tf32, cudnn_benchmark=options.cudnn_benchmark,
            ) as processes:  # fmt: skip
                recipe = settled(recipe, processes.device)
                share(options, processes.count)
                main_recipe = processes.of_main(recipe.tables)
                processes.together(partial(refuse_unlike, "recipe", main_recipe, recipe.tables))
                begin = Beginning(recipe, options, folder, resume, overwrite, changes)
                processes.on_main(begin.claim)
                begin.how, begin.changes, begin.micro_batch = processes.of_main(
                    (begin.how, begin.changes, begin.micro_batch)
                )
                if begin.how == FINISHED:
                    step = folder.finished() or 0
                    saved = checkpoint.last(folder.checkpoints, step)
                    return Outcome(folder.path, step, None, None, main, "finished", saved)
                owner = processes.of_main(folder.owner())
                processes.together(partial(folder.refuse_unless_shared, owner))
                if begin.micro_batch == "auto":
                    begin.micro_batch = fitting_micro_batch(recipe, options, processes)
                recipe = recipe.with_value(("run", "micro_batch_size"), begin.micro_batch)
                options = recipe.common(("run",))
                progress = track if processes.is_main else None
                with session(recipe, processes, options, progress=progress) as ready:
                    run = Run(recipe, plugins, options, folder, ready, stop)
                    return run.go(begin)
        except Stopped as stopped:
            if run is None or run.status is None:
                return Outcome(folder.path, 0, stopped.number, None, main, "untouched", None)
            return run.outcome(stopped.number)
        finally:
            folder.release()


class Run:
    """One training run on this process."""

    def __init__(
        self, recipe: Recipe, plugins: Plugins, options: RunOptions, folder: RunFolder, ready: Session,
        stop: Stop,
    ) -> None:  # fmt: skip
        self.recipe, self.plugins, self.options, self.folder = recipe, plugins, options, folder
        self.processes, self.built = ready.processes, ready.built
        self.batches, self.trainer, self.computes = ready.batches, ready.trainer, ready.computes()
        self.checkpoints: CheckpointOptions = recipe.common(("checkpoints",))
        self.trackers: TrackerOptions = recipe.common(("trackers",))
        self.held_out = self._held_out()
        self._refuse_unknown_measure()
        averaged = {role: recipe.common(("ema", role)) for role in self.built.training.widths}
        self.snapshots: dict[str, EMAOptions] = {role: o for role, o in averaged.items() if o.widths}
        self.previews = Previews(recipe, self.built, plugins.registry, self.processes)
        skips = recipe.common(("data",)).on_error == "skip"
        self.facts = {
            **identity(self.built.source, self.batches, skips=skips), "micro_batch": self.trainer.micro_batch
        }  # fmt: skip
        if self.built.encoder is not None:  # its run may have been trained anew
            self.facts["encoder"] = digest(self.built.encoder.state_dict())
        known = {name: value for name, value in self.facts.items() if name not in ("skips", "times")}
        self.processes.together(partial(refuse_unlike, "data", self.processes.of_main(known), known))
        said = introduction(
            self.folder.path, self.options, self.built.training, self.trainer.micro_batch,
            len(self.built.source), self.computes, self.processes.count,
        )  # fmt: skip
        for line in said:
            if self.processes.is_main:
                say(line)
        for line in summary(self.built.source, self.batches, measured=self.held_out is not None):
            if self.processes.is_main:
                say(line)
        self._named = set(self.batches.skipped)  # of what cannot be read, what has been named
        self.agreement = Agreement(self.processes)
        self.grid: Path | None = None
        self.status: Status | None = None  # nothing has been written yet
        self._stop = stop
        self._done: set[str] = set()  # of what is due after a step, what has been done after this one
        self._whole = True  # between two steps
        self._kept = self._complete = False
        self._started, self._processor = time.monotonic(), time.process_time()
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

    def _refuse_unknown_measure(self) -> None:
        """Try the measures, on a few examples, if one of them is to choose the best checkpoint.

        Raises:
            RecipeError: if there is none of that name, or none at all before the end.
        """
        wanted = self.checkpoints.keep_best
        if wanted is None:
            return
        where = f"{self.recipe.where(('checkpoints', 'keep_best'))} keep_best"
        if self.held_out is None:
            lacking = "data" if self.built.training.objective.measures() else "objective"
            raise RecipeError(f"{where} = {wanted!r}, but this {lacking} gives no measures on held-out data")
        if self.options.measure_every is None:
            raise RecipeError(
                f"{where} = {wanted!r} needs [run] measure_every, the steps between two measures"
            )
        known = {
            f"held_out/{name}" for name in self._measures(min(self.trainer.micro_batch, self.held_out_rows))
        }
        if wanted not in known:
            listed = ", ".join(sorted(known))
            raise RecipeError(f"{where}: there is no {wanted!r}.{nearest(wanted, known)} There are {listed}")

    def _measures(self, rows: int, progress: Callable[[int], None] = lambda rows: None) -> dict[str, float]:
        """The objective's measures of the first rows of the held-out data."""
        assert self.held_out is not None
        return measure(
            self.built.training, self.held_out, rows, min(self.trainer.micro_batch, rows),
            self.options.seed, self.trainer.number, self.processes, progress,
        )  # fmt: skip

    def go(self, begin: Beginning) -> Outcome:
        """Train until the recipe's end, or until asked to stop."""
        if begin.how == RESUMED:
            self._resume(begin)
        first, last = self.trainer.number, self.options.last_step
        self.processes.on_main(partial(self._prepare, begin))
        try:
            self.processes.start_trackers(self.trackers.project, flat(self.recipe.tables))
            if "tensorboard" in self.trackers.chosen and self.processes.is_main:
                say(f"losses and samples in TensorBoard: tensorboard --logdir {self.folder.trackers}")
            self._tell("toolkit_run_started")
            self.batches.plan(self.trainer.requests(last))
            self._since = (time.monotonic(), first)
            visible = self.processes.is_main
            minutes = self.options.minutes
            until = None if minutes is None else self._started + 60 * minutes
            with training_display(first, last, self.options.batch_size, until, visible=visible) as display:
                with self._stop.gently():
                    self._loop(last, display)
                    # A signal may have reached only some processes.
                    stopped = self.processes.any(self._stop.number is not None)
                    self._keep(display, stopped=stopped)
                if not stopped:
                    if self._stop.number is not None:  # it came while the result was written
                        raise Stopped(self._stop.number)
                    self._finish(display)
        except Stopped:
            if self.status != "finished":
                self.status = "stopped"
            raise
        except TrainingError as error:
            raise TrainingError(f"{str(error).rstrip('.')}. {self._last_checkpoint()}") from None
        finally:
            self._end()
        return self.outcome((self._stop.number or signal.SIGTERM) if stopped else None)

    def outcome(self, number: int | None) -> Outcome:
        """How it has ended, by a signal of that number or by itself."""
        ended = self.status if self.status in ("finished", "stopped") and self._kept else "interrupted"
        path, step, main = self.folder.path, self.trainer.number, self.processes.is_main
        return Outcome(path, step, number, self.grid, main, ended, self._saved, self.best)

    def _prepare(self, begin: Beginning) -> None:
        check_space(self.folder.path, self._checkpoint_bytes() + self._snapshot_bytes())
        self.status = "failed"  # until it has gone well
        if begin.how == REPLACED:
            self.folder.clear()
        self.previews.refuse_to_replace(self.folder.path)
        versions = {report.owner.name: report.owner.source for report in self.plugins.reports}
        for change in begin.changes:
            say(f"from step {self.trainer.number} on, {change}", "changed")
            self.folder.note_change(self.trainer.number, change.key, change.before, change.after)
        self.folder.describe(self.recipe, versions, self.computes)
        self.folder.set_status("running", self.trainer.number)

    def _loop(self, last: int | None, display: TrainingDisplay) -> None:
        trainer, first = self.trainer, self.trainer.number
        forecast = Forecast(first, self.options, self.previews.calls, self._started)
        try:
            if trainer.number:
                self._catch_up(last, display)
            while (last is None or trainer.number < last) and not self._ends():
                trainer.read()
                self._whole = False
                if trainer.number == first and self.computes["compiled"]:
                    display.say("compiling: the first steps take a minute or more")
                trainer.step()
                self._whole, self._done = True, set()
                display.step(trainer.number)
                for line in forecast.after(trainer.number):
                    display.say(line)
                self._catch_up(last, display)
            if self._stop.number is not None:
                display.say(f"stopping after step {trainer.number} ...")
            self._once("checkpoint", self._save)
        except TrainingError:
            raise
        except Exception as error:
            self._rescue()
            if out_of_memory(error):
                what = f"step {self.trainer.number} does not fit into memory ({one_line(error)[:200]})"
                raise TrainingError(f"{what}. {relief(self.recipe)}") from None
            raise

    def _catch_up(self, last: int | None, display: TrainingDisplay) -> None:
        """Do what is due after this step and was not done, before a kill, by the run that is resumed."""
        number = self.trainer.number
        if due(number, self.options.log_every):
            self._once("log", partial(self._log, display))
        if due(number, self.options.measure_every):
            self._once("measure", partial(self._measure, display))
        for role, options in self.snapshots.items():
            if due(number, options.snapshot_every):
                self._once(f"snapshot of {role}", partial(self._snapshot, role))
        if due(number, self.checkpoints.every):
            self._once("checkpoint", self._save)
        if due(number, self.previews.options.every) and number != last:
            self._once("grid", partial(self._sample, display))

    def _once(self, what: str, work: Callable[[], None]) -> None:
        if what not in self._done:
            work()
            self._done.add(what)

    def _rescue(self) -> None:
        """Save the last complete step on the way out, by this process alone: others may never arrive."""
        alone = not self.built.training.placement.sharded
        if alone and self._whole and "checkpoint" not in self._done and self.trainer.finite_here():
            with suppress(ToolkitError, OSError):  # the cause is already being reported
                self._write_checkpoint(checkpoint.state_of(self.built.training, self.trainer.number))
        go_on = "Go on with --resume" if self._saved else "Start again with --resume auto"
        say(f"step {self.trainer.number}: {self._last_checkpoint()} {go_on}", "failed")

    def _ends(self) -> bool:
        """Whether time is up or someone asked to stop."""
        minutes = self.options.minutes
        late = minutes is not None and time.monotonic() - self._started > 60 * minutes
        over = late or self._stop.number is not None
        return self.agreement.over(self.trainer.number, over)

    def _resume(self, begin: Beginning) -> None:
        """Resume from one checkpoint: the main process chooses it, all others load the same."""
        training, folder = self.built.training, self.folder.checkpoints
        facts = begin.unchanged(self.facts)

        def choose() -> None:
            path, self.trainer.number, complaints = checkpoint.load_newest(folder, training, facts)
            for complaint in complaints:
                say(complaint, "passed over")
            say(f"resuming from {path}")
            for remark in remarks(read_json(path / "state.json")["facts"], facts):
                say(remark, "note")
            forget_snapshots_after(self.folder.path, self.trainer.number)
            if damaged := self.folder.forget_after(self.trainer.number):
                say(f"{self.folder.metrics}: {damaged} damaged lines are left out", "note")
            self._done = {"checkpoint"} | self.folder.done(self.trainer.number)

        def follow() -> None:
            checkpoint.load(folder / step_name(self.trainer.number), training, facts)
            training.sums.load(dict.fromkeys(training.sums.state(), (0.0, 0)))  # the main process has them

        self.processes.on_main(choose)
        self.trainer.number, self._done = self.processes.of_main((self.trainer.number, self._done))
        self.processes.together(follow if not self.processes.is_main else lambda: None)

    def _log(self, display: TrainingDisplay, *, last: bool = False) -> None:
        """Record the means since the last record; a run that ends between two goes on as if it had not."""
        # Each process names what it has read itself.
        skipped = [*self.batches.skipped, *(self.held_out.skipped if self.held_out else ())]
        for name in skipped:
            if name not in self._named:
                say(f"cannot be read, another example stands in its place: {name}", "skipped")
        self._named.update(skipped)
        logs, number = self.trainer.take_logs(keep=last), self.trainer.number
        if not logs:
            return  # no step since the last record
        now, (then, before) = time.monotonic(), self._since
        self._since = (now, number)
        speed = (number - before) * self.options.batch_size / max(now - then, 1e-9)
        logs |= self.trainer.learning_rates()
        spent = {"seconds": now - self._started, "processor_seconds": time.process_time() - self._processor}
        self._record({**logs, "images_per_second": speed, **spent})
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
        self.processes.must_agree(self.trainer.replicas())

    def _save(self) -> None:
        self._agree()
        self.built.training.sums.pool(self.processes)
        state = checkpoint.state_of(self.built.training, self.trainer.number)
        self.processes.on_main(partial(self._write_checkpoint, state))

    def _write_checkpoint(self, state: checkpoint.State) -> None:
        describe = partial(self.previews.describe, state.step)
        path = checkpoint.save(self.folder.checkpoints, state, self.facts, describe)
        self._prune()
        self._tell("toolkit_checkpoint_saved", path=path)

    def _prune(self) -> None:
        keep, best = self.checkpoints, self.best
        number, kept = self.trainer.number, best.path if best else None
        checkpoint.prune(self.folder.checkpoints, number, keep.keep_last, keep.keep_every, kept)

    @property
    def best(self) -> Best | None:
        """The best checkpoint up to now; None if none is kept, or none was measured."""
        if self.checkpoints.keep_best is None:
            return None
        records, _ = read_records(self.folder.metrics)
        return best_among(
            self.folder.checkpoints, records, self.checkpoints.keep_best, self.checkpoints.best_is
        )

    def _snapshot(self, role: str) -> None:
        self._agree()
        averages = self.built.training.widths[role]
        updates = next(iter(averages.values())).updates
        whole = self.built.training.placement.gathered
        states = {width: whole(ema.network.state_dict()) for width, ema in averages.items()}
        folder, number = self.folder.path, self.trainer.number
        self.processes.on_main(partial(write_snapshot, folder, role, number, updates, states))

    def _measure(self, display: TrainingDisplay) -> None:
        if self.held_out is None:
            return
        self._agree()
        rows = self.held_out_rows
        with display.during("measuring", rows * len(self.built.training.objective.measures())) as progress:
            values = {f"held_out/{name}": value for name, value in self._measures(rows, progress).items()}
        wanted = self.checkpoints.keep_best
        before = self.processes.of_main(self.best if self.processes.is_main else None)
        self._record(values)
        if wanted is not None and self.checkpoints.better(values[wanted], before):
            self._once("checkpoint", self._save)
            self.processes.on_main(self._prune)  # where it was saved before it was measured

    def _sample(self, display: TrainingDisplay) -> None:
        self._agree()
        with display.during("sampling", self.previews.calls) as progress:
            made = self.previews.save(self.trainer.number, self.folder.samples, progress)
        self.grid = made or self.grid
        if self.trackers.chosen and self.processes.is_main:
            number = self.trainer.number
            files = {f"samples{e}": self.folder.samples / f"{step_name(number)}{e}.png" for e in ("-ema", "")}
            pictures = {name: Image.open(file) for name, file in files.items() if file.is_file()}
            self.processes.track_pictures(pictures, number)

    def _keep(self, display: TrainingDisplay, *, stopped: bool) -> None:
        """Write the result; a run whose result is written is finished, even if a grid is still due."""
        for role, ema in self.trainer.training.ema.items():
            if (share := ema.initial_share()) > LAGGING:
                display.say(
                    f"{share:.0%} of the average of {role!r} are still its first weights: train longer, "
                    f"sample with --weights raw, or give [ema.{role}] a lower decay or ramp = true"
                )
        if not stopped:
            self._once("log", partial(self._log, display, last=True))
            for role in self.snapshots:
                self._once(f"snapshot of {role}", partial(self._snapshot, role))
        self.previews.keep(self.trainer.number, self.folder.path)
        self._kept = True
        self.status = "stopped" if stopped else "finished"
        self.processes.on_main(
            partial(self.folder.set_status, self.status, self.trainer.number, due=not stopped)
        )

    def _finish(self, display: TrainingDisplay) -> None:
        """Do what is due at the end and was not already done at the last step."""
        self._once("measure", partial(self._measure, display))
        if self.previews.any and "grid" not in self._done:
            display.say(f"sampling the final grid: {self.previews.cost} ...")
        self._once("grid", partial(self._sample, display))
        self._complete = True
        self.processes.barrier()

    def _end(self) -> None:
        """Record the end, also after a failure; waits for no other process, which may be gone."""
        if self.processes.is_main and self.status is not None:
            with suppress(RunError):  # the cause is already being reported
                unfinished = self.status == "finished" and not self._complete
                self.folder.set_status(self.status, self.trainer.number, due=unfinished)
        self._tell("toolkit_run_ended")

    @property
    def _saved(self) -> Path | None:
        """The newest checkpoint."""
        return checkpoint.last(self.folder.checkpoints, self.trainer.number)

    def _last_checkpoint(self) -> str:
        path = self._saved
        return "There is no checkpoint yet." if path is None else f"The last checkpoint is {path}."

    def _checkpoint_bytes(self) -> int:
        training = self.built.training
        modules = [*training.networks.values(), *(ema.network for ema in training.averages.values())]
        return 3 * weight_bytes(*modules)  # networks, averages and Adam's two moments, with some room

    def _snapshot_bytes(self) -> int:
        """The size of the snapshots to come, which it says; of the next one, if only time ends the run."""
        total, last = 0, self.options.last_step
        for role, options in self.snapshots.items():
            assert options.snapshot_every is not None
            averages = self.built.training.widths[role].values()
            done = self.trainer.number
            count = 1 if last is None else -(-last // options.snapshot_every) - done // options.snapshot_every
            size = weight_bytes(*(ema.network for ema in averages))
            total += count * size
            ends = f"{count} more, {count * size / 2**20:,.1f} MiB" if last is not None else "as many as come"
            say(
                f"snapshots of {role!r}: {len(averages)} averages, {size / 2**20:,.1f} MiB, every "
                f"{options.snapshot_every} steps: {ends}"
            )
        return total

    def _tell(self, observer: str, **facts: object) -> None:
        """Notify observers, on the main process; one that fails is reported and does not stop the run."""
        if self.processes.is_main:
            self.plugins.tell(observer, run=self.folder.path, **facts)


def due(number: int, every: int | None) -> bool:
    return every is not None and number % every == 0


def weight_bytes(*networks: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as `a.b.c` keys, for trackers."""
    flattened: dict[str, Any] = {}
    for key, value in tables.items():
        flattened |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
        )
    return flattened
