"""`toolkit runs` and `toolkit clean`: what runs there are, and what of them can go."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.complete import run_folders
from toolkit.cli.options import json_option

if TYPE_CHECKING:
    from toolkit.runs.read import RunSummary


@click.command(short_help="List the runs in a folder.")
@click.argument(
    "folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path), shell_complete=run_folders
)
@json_option
def runs(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the runs in each FOLDER, by default runs/, newest first."""
    from rich.table import Column, Table
    from rich.text import Text

    from toolkit.console import Terminal, echo_json, say
    from toolkit.runs.checkpoints import best_of
    from toolkit.runs.layout import size_of
    from toolkit.runs.read import runs_in

    usual = Path("runs")
    if not folders and not usual.exists():
        if as_json:
            echo_json([])
            return
        say("no runs yet: toolkit train quickstart makes one, in two minutes")
        return
    found = [(folder, run) for folder in folders or (usual,) for run in runs_in(folder)]
    if as_json:
        echo_json([in_full(run) for _, run in sorted(found, key=lambda pair: pair[1].age)])
        return
    name = Column("run", no_wrap=True, overflow="fold")  # what the other commands are given
    table = Table(name, "objective", "status", "step", "losses", "scores", "size", "age", box=None)
    for folder, run in sorted(found, key=lambda pair: pair[1].age):
        names = dict.fromkeys(n for record in run.records for n in record if n.endswith("/loss"))
        losses = [f"{name} {last:.4g}" for name in names if (last := run.last(name)) is not None]
        losses += [f"best: {best}"] if (best := best_of(run)) is not None else []
        losses += [f"({run.damaged} damaged lines left out)"] if run.damaged else []
        scores = [f"{n} {v:.4g}" for score in run.scores for n, v in list(score.values.items())[:1]]
        scores += [f"({len(run.stale)} of earlier weights)"] if run.stale else []
        cells = (
            str(run.path.relative_to(folder)) if run.path != folder and len(folders) < 2 else str(run.path),
            str(run.recipe.get("objective", {}).get("type", "")),
            run.status,
            f"{run.step:,}",
            "\n".join(losses),
            "\n".join(scores),
            in_bytes(size_of(run.path)),
            age(run.age),
        )
        table.add_row(*map(Text, cells))
    Terminal().print(table)


def in_full(run: "RunSummary") -> dict[str, object]:
    """All that the list says of a run, and its scores with their protocols."""
    from toolkit.runs.layout import size_of

    names = dict.fromkeys(name for record in run.records for name in record)
    return {
        "run": str(run.path),
        "status": run.status,
        "step": run.step,
        "last": {name: run.last(name) for name in names if name not in ("step", "images")},
        "scores": [score.model_dump(mode="json", exclude={"curves"}) for score in run.scores],
        "bytes": size_of(run.path),
        "age": run.age,
        "objective": run.recipe.get("objective"),
    }


@click.command(short_help="Remove what runs no longer need.")
@click.argument(
    "folders",
    metavar="RUN...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=run_folders,
)
@click.option(
    "--checkpoints", "every", is_flag=True,
    help="The newest and the best checkpoint too: the run can be sampled and scored, but not go on.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
def clean(folders: tuple[Path, ...], every: bool, dry_run: bool) -> None:
    """Remove what each RUN does not need: samples of evaluations, and checkpoints but the newest and the best
    (checkpoints.keep_best).

    What was trained, its metrics, grids and scores stay.
    """
    from toolkit.console import say
    from toolkit.errors import RunError
    from toolkit.runs.clean import clean as remove
    from toolkit.runs.clean import removable
    from toolkit.runs.read import read_run

    total = 0
    for folder in folders:
        run, chosen = read_run(folder), list(removable(folder, every_checkpoint=every))
        trained = any((folder / name).is_dir() for name in ("pipeline", "networks"))
        if every and not trained:
            raise RunError(f"{folder}: {run.status}, and has no result yet: its checkpoints are all there is")
        if not dry_run:
            remove(folder, chosen)
        for one in chosen:
            say(f"{one.path}: {one.why}, {in_bytes(one.size)}", "would remove" if dry_run else "removed")
            total += one.size
    say(f"{in_bytes(total)} {'to remove' if dry_run else 'removed'}")


def in_bytes(size: float) -> str:
    """A size in the largest unit of which there is at least one: "3.4 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def age(seconds: float) -> str:
    """A duration rounded down to one unit: "3 h"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"
