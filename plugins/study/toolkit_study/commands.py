"""`toolkit study`; heavy imports wait until it runs."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from toolkit_study.jobs import Folder
    from toolkit_study.plan import Study


@click.command(short_help="Train, score and compare runs by one file.")
@click.argument("source", metavar="STUDY")
@click.option("--out", type=click.Path(path_type=Path), help="The study's folder; by default runs/<study>.")
@click.option("--scale", metavar="NAME", help="One of the study's own scales: --scale tiny takes a minute.")
@click.option("--only", metavar="RUN[,RUN...]", help="Only these runs, and those that they need.")
@click.option("--seeds", metavar="N[,N...]", help="Seeds other than the study's.")
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Set a value of the recipes of all runs."
)
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Processes at once.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(min=1), help="Threads of each.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop after so long; the same command goes on.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
def study(
    source: str, out: Path | None, scale: str | None, only: str | None, seeds: str | None,
    overrides: tuple[str, ...], jobs: int, threads: int, minutes: float | None, dry_run: bool,
) -> None:  # fmt: skip
    """Carry out STUDY, a .toml file or the name of a packaged study, and report.

    Runs that are missing are trained and scored; what is there stays, and the same command goes on after a
    stop. report.md, results.json and pictures are written into the study's folder.
    """
    import shlex
    import sys

    from toolkit.commands import RunError, read_json, say
    from toolkit_study.jobs import Folder, Outcome, carry_out, jobs_of, timing_of
    from toolkit_study.plan import read_study
    from toolkit_study.report import write_report

    started = time.monotonic()
    planned = read_study(source, scale, overrides)
    planned = planned.narrowed(_names(only), [_seed(seed) for seed in _names(seeds)])
    name = planned.name if scale is None else f"{planned.name}-{scale}"
    folder = Folder((out or Path("runs") / name).absolute())
    if dry_run:
        _show(planned, folder)
        return
    until = None if minutes is None else started + 60 * minutes
    say(f"{planned.title}: {folder.path}")
    outcome = Outcome()
    if (timing := timing_of(planned, folder)) is not None:
        outcome = carry_out([timing], folder, at_once=1, threads=threads, until=until)
        if timing.done():
            planned = planned.settled(read_json(folder.path / "costs.json")["seconds"])
    if not outcome.late and not outcome.failed:
        outcome = carry_out(jobs_of(planned, folder), folder, at_once=jobs, threads=threads, until=until)
    for line in write_report(planned, folder):
        say(line)
    say(f"written to {folder.path / 'report.md'}")
    if outcome.late:
        again = shlex.join(["toolkit", *sys.argv[1:]])
        say(f"time is up; {len(outcome.late)} jobs are left. Go on with   {again}")
    if outcome.failed:
        reasons = [f"{name}: {reason}" for name, reason in outcome.failed.items()]
        left = f"\nleft out because of that: {', '.join(outcome.left_out)}" if outcome.left_out else ""
        raise RunError("\n".join(reasons) + left)


def _show(planned: "Study", folder: "Folder") -> None:
    from rich.table import Column, Table
    from rich.text import Text

    from toolkit.commands import Terminal
    from toolkit_study.jobs import jobs_of

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
