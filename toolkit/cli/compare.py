"""`toolkit compare`: runs by their scores, and where their recipes differ."""

from pathlib import Path

import click

RECIPES = ("run.out",)  # differs always, and says nothing

runs_argument = click.argument(
    "folders", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)


@click.command(short_help="Rank runs by their scores.")
@runs_argument
@click.option("--by", metavar="SCORE", help="The score to rank by, e.g. fid_inception; the first by default.")
@click.option("--anyway", is_flag=True, help="Show scores by different protocols too, marked.")
def compare(folders: tuple[Path, ...], by: str | None, anyway: bool) -> None:
    """Show the scores of each RUN, best first, and where their recipes differ.

    Scores that were measured by different protocols are left out, and refused if there are no others: what
    differs is named.
    """
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from toolkit.differences import differences
    from toolkit.ranking import chosen, columns, footnotes, labels, ranked, stale_notes
    from toolkit.summary import read_run

    runs = [read_run(folder) for folder in folders]
    names, found = labels(runs), columns(runs)
    column = chosen(found, by, names, anyway=anyway)
    mixed = [one for one in found if not one.comparable]
    found = found if anyway else [one for one in found if one.comparable]
    several = {c.name for c in found if sum(other.name == c.name for other in found) > 1}
    table = Table("run", "objective", "steps", box=None)
    for one in found:
        way = f"\n{one.better} is better" if one.better else ""
        table.add_column(Text((one.key if one.name in several else one.name) + way), justify="right")
    for place in ranked(runs, column):
        run = runs[place]
        table.add_row(
            Text(names[place]),
            Text(str(run.recipe.get("objective", {}).get("type", ""))),
            f"{run.step:,}",
            *(_cell(one.text(place), one.best == place) for one in found),
        )
    console = Console()
    console.print(table)
    if column is not None:
        console.print(Text(f"Ranked by {column.name}; * is the best of scores that can be compared."))
    elif found:
        console.print(Text("Not ranked: the runs stand in the order given."))
    left_out = "" if anyway else " They are left out; --anyway shows them."
    for note in (*(said + left_out for said in footnotes(mixed)), *stale_notes(runs, names)):
        console.print(Text(note))
    if len(runs) > 1:
        differing = Table(
            Column("recipes differ in", overflow="fold"), *(Column(Text(name)) for name in names), box=None
        )
        between = list(differences([run.recipe for run in runs], RECIPES))
        for difference in (d for d in between if not d.lacking):
            differing.add_row(Text(difference.key), *map(Text, difference.shown()))
        console.print()
        console.print(differing)
        if lacking := sum(d.lacking for d in between):
            console.print(f"and {lacking} options that only some of them have, which toolkit report lists.")


def _cell(text: str, best: bool) -> str:
    return f"[bold]* {text}[/bold]" if best else text or "–"
