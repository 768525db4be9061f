"""`toolkit train`: from a recipe to a run folder."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.complete import recipe_names

if TYPE_CHECKING:
    from toolkit.training.loop import Outcome


class _Unfailing:
    """A stream that drops what cannot be written: the disk is full, or the other end is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (OSError, ValueError):  # a ValueError if it is closed
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what is buffered too, now and at exit


@contextmanager
def _unfailing_output() -> Iterator[None]:
    """Let the block go on where stdout and stderr cannot be written: the run folder is what counts."""
    for number in (0, 1, 2):  # a closed one would be the number of the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Unfailing(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


class _Train(click.Command):
    """Lets `--resume` stand alone, also before RECIPE, and take the word "auto"."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        after = [*args[1:], ""][: len(args)]
        alone = [word == "--resume" and then != "auto" for word, then in zip(args, after, strict=True)]
        return super().parse_args(ctx, [f"{w}=newest" if a else w for w, a in zip(args, alone, strict=True)])

    def invoke(self, ctx: click.Context) -> Any:
        with _unfailing_output():
            return super().invoke(ctx)


@click.command(cls=_Train, short_help="Train a model by a recipe.")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one value of the recipe.")
@click.option(
    "--resume", type=click.Choice(["newest", "auto"]), metavar="[auto]",
    help="Continue from the newest complete checkpoint in the run folder; auto also starts a run.",
)  # fmt: skip
@click.option(
    "--change", "changes", multiple=True, metavar="A.B",
    help="On resuming, let this value or table of the recipe be another than in the run.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a run that is already in the run folder.")
def train(
    recipe: str, overrides: tuple[str, ...], resume: str | None, changes: tuple[str, ...], overwrite: bool
) -> None:
    """Train a model by RECIPE, a .toml file or the name of a packaged recipe.

    The run folder is [run] out, by default runs/<recipe>. On several GPUs: accelerate launch -m toolkit train
    RECIPE. On two CPU processes: torchrun --nproc_per_node 2 -m toolkit train RECIPE.
    """
    if resume and overwrite:
        raise click.UsageError("--resume keeps a run and --overwrite replaces it: give one of them")
    if changes and not resume:
        raise click.UsageError("--change is about a run that is resumed: give --resume too")
    from toolkit.errors import RecipeError
    from toolkit.recipe import read_layers, resolve

    layers = read_layers(recipe, overrides)  # before anything heavy is imported: a typo answers at once

    from toolkit.console import console, say

    with console.status("loading torch and the plugins ..."):  # some seconds, in which nothing else is said
        from toolkit.files import read_json
        from toolkit.pipeline.images import drawable
        from toolkit.registry import load as plugins
        from toolkit.training.loop import train as run

        loaded = plugins.load()
        try:
            resolved = resolve(layers, registry=loaded.registry)
        except RecipeError as error:
            raise RecipeError(f"{error}{_sweep(recipe, overrides, str(error))}") from None
    for note in resolved.notes:
        say(note, "note")
    outcome = run(
        resolved, loaded, resume="auto" if resume == "auto" else resume is not None, overwrite=overwrite,
        changes=changes,
    )  # fmt: skip
    if outcome.signal is not None:
        if outcome.main:
            words = ["toolkit", "train", recipe, *(f"--set={value}" for value in overrides), "--resume"]
            for line in _stopped(outcome, shlex.join(words)):
                say(line)
        raise SystemExit(128 + outcome.signal)
    if not outcome.main:
        return
    folder = outcome.folder
    console.print("[green]done[/]", end=" ")
    say(f"step {outcome.step}; everything is in {folder}")
    if outcome.grid is not None:
        say(f"  samples     {outcome.grid}")
    say(f"  metrics     {folder / 'metrics.jsonl'}")
    say(f"  checkpoints {folder / 'checkpoints'}")
    if outcome.best is not None:
        say(f"  the best    {outcome.best}: toolkit sample {shlex.quote(str(folder))} --checkpoint best")
    if (folder / "pipeline").is_dir():
        say(f"  pipeline    {folder / 'pipeline'}")
        say("try next")
        say(f"  toolkit sample {shlex.quote(str(folder))} --num 64 --out grid.png")
        saved = read_json(folder / "pipeline" / "pipeline.json")
        shape = saved.get("image_shape") or saved["sample_shape"]
        drawn = drawable(shape, saved.get("pictures", True))
        load = f'toolkit.load("{folder}")(4).images'
        code = f'{load}[0].save("one.png")' if drawn else f"print({load}.shape)"
        say(f"  python -c {shlex.quote(f'import toolkit; {code}')}")
    elif (folder / "networks").is_dir():
        say(f"  networks    {folder / 'networks'}")


def _sweep(recipe: str, overrides: tuple[str, ...], error: str) -> str:
    """A line about sweeps, if a flag with several values between commas was refused."""
    several = any("," in flag and f"--set {flag}:" in error for flag in overrides)
    command = shlex.join(["toolkit", "sweep", recipe, *(f"--set={flag}" for flag in overrides)])
    return f"\nto train with each of several values:   {command}" if several else ""


def _stopped(outcome: "Outcome", again: str) -> list[str]:
    """What is saved of a run that a signal has stopped, and how to go on."""
    name, folder = signal.Signals(outcome.signal or 0).name, outcome.folder
    if outcome.ended == "stopped":
        stopped = f"stopped by {name} at step {outcome.step}; everything is saved in {folder}"
        return [stopped, f"go on with   {again}"]
    if outcome.ended == "finished":
        return [
            f"stopped by {name} after the last step; the trained model and everything else are in {folder}",
            f"make up for the last measures and samples with   {again}",
        ]
    if outcome.ended == "untouched":
        return [f"interrupted by {name} before training began; {folder} is as it was"]
    if outcome.saved is None:
        return [f"interrupted at once, before the first checkpoint; start again with   {again} auto"]
    return [
        f"interrupted at once; go on from the last checkpoint with   {again}",
        f"the last checkpoint is {outcome.saved}",
    ]
