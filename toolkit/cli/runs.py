"""`toolkit runs`: a list of the runs in a folder."""

from pathlib import Path

import click


@click.command(short_help="List the runs in a folder.")
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
def runs(folder: Path) -> None:
    """List the runs in FOLDER, newest first: status, step, losses, scores, age."""
    from rich.table import Table
    from rich.text import Text

    from toolkit.console import Terminal
    from toolkit.runs.read import runs_in

    table = Table("run", "objective", "status", "step", "losses", "scores", "age", box=None)
    for run in runs_in(folder):
        names = dict.fromkeys(n for record in run.records for n in record if n.endswith("/loss"))
        losses = [f"{name} {last:.4g}" for name in names if (last := run.last(name)) is not None]
        losses += [f"({run.damaged} damaged lines left out)"] if run.damaged else []
        scores = [f"{n} {v:.4g}" for score in run.scores for n, v in list(score.values.items())[:1]]
        scores += [f"({len(run.stale)} of earlier weights)"] if run.stale else []
        cells = (
            str(run.path.relative_to(folder)) if run.path != folder else run.name,
            str(run.recipe.get("objective", {}).get("type", "")),
            run.status,
            f"{run.step:,}",
            "\n".join(losses),
            "\n".join(scores),
            age(run.age),
        )
        table.add_row(*map(Text, cells))
    Terminal().print(table)


def age(seconds: float) -> str:
    """A duration rounded down to one unit: "3 h"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"
