"""`toolkit study` and `toolkit sweep`; heavy imports wait until they run."""

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from toolkit_study.jobs import Folder
    from toolkit_study.plan import Study

C = TypeVar("C", bound=Callable[..., Any])


def carrying_options(command: C) -> C:
    """Options of the commands that carry out a study."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
        click.option(
            "--minutes", type=click.FloatRange(min=0), help="Stop after so long; the same command goes on."
        ),
        click.option(
            "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of each."
        ),
        click.option(
            "--jobs",
            default=1,
            show_default=True,
            type=click.IntRange(min=0),
            help="Processes at once; 0 does all in this one, which is quick for small runs.",
        ),
        click.option(
            "--out", type=click.Path(path_type=Path), help="The folder; by default runs/<its name>."
        ),
    ):
        command = option(command)
    return command


@click.command(short_help="Train, score and compare runs by one file.")
@click.argument("source", metavar="STUDY")
@click.option("--scale", metavar="NAME", help="One of the study's own scales: --scale tiny takes a minute.")
@click.option("--only", metavar="RUN[,RUN...]", help="Only these runs, and those that they need.")
@click.option("--seeds", metavar="N[,N...]", help="Seeds other than the study's.")
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Set a value of the recipes of all runs."
)
@carrying_options
def study(
    source: str, out: Path | None, scale: str | None, only: str | None, seeds: str | None,
    overrides: tuple[str, ...], jobs: int, threads: int, minutes: float | None, dry_run: bool,
) -> None:  # fmt: skip
    """Carry out STUDY, a .toml file or the name of a packaged study, and report.

    Runs that are missing are trained and scored; what is there stays, and the same command goes on after a
    stop. report.md, results.json and pictures are written into the study's folder.
    """
    from toolkit_study.jobs import Folder
    from toolkit_study.plan import read_study

    started = time.monotonic()
    planned = read_study(source, scale, overrides)
    if seeds:
        planned = planned.with_seeds([_seed(seed) for seed in _names(seeds)])
    planned.narrowed(_names(only))  # refuses a name that is not there
    name = planned.name if scale is None else f"{planned.name}-{scale}"
    folder = Folder((out or Path("runs") / name).absolute())
    if dry_run:
        _show(planned.narrowed(_names(only)), folder)
        return
    _carry_out(planned, _names(only), folder, jobs, threads, started, minutes)


@click.command(short_help="Train a recipe with each of several values, and compare.")
@click.argument("recipe")
@click.option(
    "--set", "overrides", multiple=True, required=True, metavar="A.B=C[,D...]",
    help="A value, or several with commas between them; several flags with several values make all pairs.",
)  # fmt: skip
@click.option(
    "--metrics", help="Score by these metrics too, separated by commas; else by held-out losses alone."
)
@click.option(
    "--features", help="A feature extractor for metrics; its options: --score-set features.path=..."
)
@click.option("--num", type=click.IntRange(min=1), help="Number of generated images.")
@click.option(
    "--score-set", "scoring", multiple=True, metavar="A.B=C",
    help="Set a value of the scoring: images.real, features.<option>, metrics.<name>.<option>.",
)  # fmt: skip
@click.option("--seeds", default="0", show_default=True, metavar="N[,N...]", help="Seeds of each.")
@carrying_options
def sweep(
    recipe: str, overrides: tuple[str, ...], metrics: str | None, features: str | None, num: int | None,
    scoring: tuple[str, ...], seeds: str, out: Path | None, jobs: int, threads: int, minutes: float | None,
    dry_run: bool,
) -> None:  # fmt: skip
    """Train RECIPE with each of several values, one after the other or --jobs at once, and compare.

    It is a study of one line: what is there stays, the same command goes on after a stop, and study.toml in
    its folder says the same as a file, for `toolkit study`.
    """
    from toolkit_study.jobs import Folder
    from toolkit_study.plan import study_of
    from toolkit_study.sweep import study_file, swept

    started = time.monotonic()
    shorthands = {"features.type": features, "images.num": num}
    flags = [f"{key}={value}" for key, value in shorthands.items() if value is not None]
    layers = swept(recipe, overrides, _names(metrics), [*flags, *scoring], [_seed(s) for s in _names(seeds)])
    planned = study_of(layers)
    folder = Folder((out or Path("runs") / layers.name).absolute())
    if dry_run:
        _show(planned, folder)
        return
    study_file(layers, folder.path / "study.toml")
    _carry_out(planned, [], folder, jobs, threads, started, minutes)


def _carry_out(
    whole: "Study", only: list[str], folder: "Folder", jobs: int, threads: int, started: float,
    minutes: float | None,
) -> None:  # fmt: skip
    """Do what is asked for, and report on all that there is."""
    from toolkit.commands import RunError, echo, read_json, say
    from toolkit_study.jobs import Outcome, carry_out, jobs_of, refuse_other_recipes, timing_of
    from toolkit_study.report import write_report

    whole.check_features()
    again = shlex.join(["toolkit", *sys.argv[1:]])
    until = None if minutes is None else started + 60 * minutes
    say(f"{whole.title}: {folder.path}")
    for note in whole.notes:
        say(note, "note")
    outcome = Outcome()
    try:
        if (timing := timing_of(whole, folder)) is not None:
            outcome = carry_out([timing], folder, at_once=min(jobs, 1), threads=threads, until=until)
            if timing.done():
                whole = whole.settled(read_json(folder.path / "costs.json")["seconds"])
        if not outcome.late and not outcome.failed:
            refuse_other_recipes(whole.narrowed(only), folder)
            todo = jobs_of(whole.narrowed(only), folder)
            outcome = carry_out(todo, folder, at_once=jobs, threads=threads, until=until)
    except KeyboardInterrupt:
        say(f"stopped; what was done is kept. Go on with   {again}")
        raise SystemExit(130) from None
    for line in write_report(whole, folder):
        echo(line)
    say(f"written to {folder.path / 'report.md'}")
    if outcome.late:
        say(f"time is up; {len(outcome.late)} jobs are left. Go on with   {again}")
    if outcome.failed:
        reasons = [f"{name}: {reason}" for name, reason in outcome.failed.items()]
        left = f"\nleft out because of that: {', '.join(outcome.left_out)}" if outcome.left_out else ""
        raise RunError("\n".join(reasons) + left)


def _show(planned: "Study", folder: "Folder") -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from toolkit.commands import Terminal, say
    from toolkit_study.jobs import jobs_of

    for note in planned.notes:
        say(note, "note")
    done = {job.name: job.done() for job in jobs_of(planned, folder)}
    table = Table(Column("run", no_wrap=True), "recipe", "length", "after", "sampled", "seeds", box=None)
    for run in planned.runs.values():
        options = run.tables["run"]
        ends = [f"{options[k]:,} {k}" for k in ("steps", "images", "minutes") if options[k] is not None]
        ends = [f"{run.seconds:,g} s"] if run.seconds else ends
        ends = [f"as long as {run.as_long_as}"] if run.as_long_as else ends
        seeds = ", ".join(
            f"{seed} (trained)" if done[f"{run.name}-{seed}"] else str(seed) for seed in run.seeds
        )
        ways = "\n".join(row.sampler or "as its recipe says" for row in run.rows)
        cells = (run.name, run.recipe, ", ".join(ends), ", ".join(run.after), ways, seeds)
        table.add_row(*map(Text, cells))
    Terminal().print(table)


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a seed: a number from 0 on", param_hint="--seeds")
    return int(text)
