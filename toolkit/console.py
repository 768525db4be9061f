"""Messages and progress bars on the terminal."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Self, TypeVar

import click
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from toolkit.errors import for_terminal

T = TypeVar("T")


class Terminal(Console):
    """A terminal, or whatever takes its place; all that we print passes it, or `echo`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(for_terminal(segment.text), segment.style)


EVERY = 60.0  # seconds between two lines of progress in a log
console = Terminal(stderr=True, highlight=False)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text as it is, to stdout unless `err`, for people and for other programs."""
    click.echo(for_terminal(text), err=err, nl=nl)


def echo_json(value: object) -> None:
    """Print a value as JSON to stdout; numbers that are not finite, which JSON has not, as null."""

    def plain(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {str(key): plain(inner) for key, inner in one.items()}
        if isinstance(one, list | tuple):
            return [plain(inner) for inner in one]
        return None if isinstance(one, float) and not math.isfinite(one) else one

    echo(json.dumps(plain(value), indent=2, default=str))


class Rate(ProgressColumn):
    """Images per second, from the task's `images` per step."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        known = speed is not None and task.fields["images"]
        return Text(f"{speed * task.fields['images']:,.0f} images/s" if known else "", style="dim")


class Remaining(TimeRemainingColumn):
    """The time until the task's `until`, if it has one, or until its last step: whichever is less."""

    def render(self, task: Task) -> Text:
        by_steps, until = super().render(task), task.fields["until"]
        if until is None:
            return by_steps
        left = max(until - time.monotonic(), 0.0)
        if task.time_remaining is not None and task.time_remaining < left:
            return by_steps
        return Text(str(timedelta(seconds=int(left))), style="progress.remaining")


def say(text: str, mark: str = "") -> None:
    """Print a line to stderr, after a coloured mark; brackets are not markup, and long lines are not cut."""
    console.print(Text.assemble((f"{mark} ", "yellow"), text) if mark else Text(text), soft_wrap=True)


def describe(logs: Mapping[str, float], limit: int = 5) -> str:
    """Logs on one line: the losses first, learning rates, then others, `limit` of them at most."""
    ordered = sorted(
        logs,
        key=lambda name: (
            not name.endswith("/loss"), not name.endswith("/lr"), name.endswith("gradient_norm"), name
        ),
    )  # fmt: skip
    return "  ".join(f"{name} {logs[name]:.4g}" for name in ordered[:limit])


class NotebookBars:
    """Bars in a notebook, by tqdm, which draws them with what is there; the part of `Progress` used here."""

    def __init__(self) -> None:
        self._bars: dict[TaskID, Any] = {}

    def add_task(
        self, description: str, total: float | None = None, completed: int = 0, **fields: object
    ) -> TaskID:
        from tqdm.auto import tqdm

        task = TaskID(len(self._bars))
        self._bars[task] = tqdm(desc=description, total=total, initial=completed)
        return task

    def update(self, task: TaskID, *, completed: float, total: float | None = None) -> None:
        bar = self._bars[task]
        bar.total = bar.total if total is None else total
        bar.update(completed - bar.n)

    def remove_task(self, task: TaskID) -> None:
        self._bars[task].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars.values():
            bar.close()


class LogLines:
    """Lines in a log, at most one in `EVERY` seconds, in place of bars; the part of `Progress` used here."""

    def __init__(self) -> None:
        self._tasks: dict[TaskID, tuple[str, float | None]] = {}
        self._last = time.monotonic()

    def add_task(
        self, description: str, total: float | None = None, completed: int = 0, **fields: object
    ) -> TaskID:
        task = TaskID(len(self._tasks))
        self._tasks[task] = description, total
        return task

    def update(self, task: TaskID, *, completed: float, total: float | None = None) -> None:
        description, known = self._tasks[task]
        whole = known if total is None else total
        if whole and time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            say(f"{description}: {completed / whole:.0%}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...


def _bars(*columns: ProgressColumn, visible: bool = True) -> Progress | NotebookBars | LogLines:
    """Bars that are redrawn, where they can be, or else lines."""
    if visible and console.is_jupyter:
        return NotebookBars()
    if visible and not console.is_terminal:
        return LogLines()
    return Progress(*columns, console=console, disable=not visible)


class TrainingDisplay:
    """A progress bar of steps with ETA and images/s, and losses below it; only the main process shows it."""

    def __init__(
        self, progress: Progress | NotebookBars, task: TaskID, losses: Text, console: Console
    ) -> None:
        self._progress, self._task, self._losses, self._console = progress, task, losses, console

    def step(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def logs(self, step: int, logs: Mapping[str, float]) -> None:
        self._losses.plain = describe(logs)
        if not self._console.is_terminal:  # a log file needs lines, not a bar that is redrawn
            self.say(f"step {step}  {describe(logs)}")

    def say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    @contextmanager
    def during(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own for what is done between or after steps; called with how much is done."""
        task = self._progress.add_task(what, total=total, images=0, until=None)
        try:
            yield lambda done: self._progress.update(task, completed=done)
        finally:
            self._progress.remove_task(task)


@contextmanager
def training_display(
    first: int, total: int | None, images: int, until: float | None, *, visible: bool
) -> Iterator[TrainingDisplay]:
    """A display of a run, silent unless `visible`.

    Args:
        first: the step that it begins with.
        total: the step that it ends with, if that is known.
        images: in a step.
        until: when it ends at the latest, in `time.monotonic()`.
        visible: whether anything is shown.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("ETA"), Remaining(), Rate(),
    )  # fmt: skip
    here = console if visible else Terminal(quiet=True)
    losses = Text(no_wrap=True, overflow="ellipsis")
    if visible and here.is_jupyter:
        with NotebookBars() as bars:
            task = bars.add_task("training", total=total, completed=first)
            yield TrainingDisplay(bars, task, losses, here)
        return
    progress = Progress(*columns, console=here)
    task = progress.add_task("training", total=total, completed=first, images=images, until=until)
    live = Live(Group(progress, losses), console=here) if here.is_terminal else nullcontext()
    with live:
        yield TrainingDisplay(progress, task, losses, here)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Iterate over items under a progress bar that disappears at the end."""
    with Progress(
        TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        yield from progress.track(items, total=total)


@contextmanager
def sampling_display(num: int, calls: int) -> Iterator["SamplingDisplay"]:
    """A progress bar for sampling; its value is a `progress` callback for `Pipeline.sample`.

    Args:
        num: how many images are sampled.
        calls: network calls for each image.
    """
    with _bars(
        TextColumn("sampling"), BarColumn(), TextColumn("{task.fields[images]} images"), TimeElapsedColumn(),
        TextColumn("ETA"), TimeRemainingColumn(),
    ) as progress:  # fmt: skip
        task = progress.add_task("sampling", total=num * max(calls, 1), images=num)
        yield SamplingDisplay(progress, task, num, max(calls, 1))


class SamplingDisplay:
    """A callback by which `Pipeline.sample` reports its progress."""

    def __init__(
        self, progress: Progress | NotebookBars | LogLines, task: TaskID, num: int, calls: int
    ) -> None:
        self._progress, self._task, self._num, self._calls = progress, task, num, calls

    def __call__(self, first: int, n: int, calls: int) -> None:
        """Show `calls` network calls as done for images first..first+n-1, and all calls for those before."""
        self._progress.update(self._task, completed=first * self._calls + n * calls)


@contextmanager
def evaluating_display(*, visible: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each metric, updated by (metric, parts done, parts in total)."""
    with _bars(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("ETA"), TimeRemainingColumn(), visible=visible,
    ) as progress:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def update(metric: str, done: int, total: int) -> None:
            if metric not in tasks:
                tasks[metric] = progress.add_task(metric, total=total)
            progress.update(tasks[metric], completed=done, total=total)

        yield update
