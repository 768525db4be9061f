"""`toolkit plugin`: for those who write one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from toolkit.component import Component
    from toolkit.testing import Outcome


@click.group(short_help="Write a plugin of your own, or check one.")
def plugin() -> None:
    """Write a plugin of your own, or check one."""


@plugin.command()
@click.argument("name")
@click.option(
    "--path", "parent", type=click.Path(file_okay=False, path_type=Path), default=".",
    help="The folder to write it into; by default the current one.",
)  # fmt: skip
def new(name: str, parent: Path) -> None:
    """Write an installable package for a plugin NAME, with a method that works, its tests and a recipe."""
    import shlex

    from toolkit.scaffold import write_plugin

    folder = write_plugin(name, parent)
    click.echo(f"{folder} has an objective {name!r} that trains, to be replaced by yours")
    click.echo("try next")
    click.echo(f"  pip install -e {shlex.quote(f'{folder}[dev]')}")
    click.echo("  toolkit plugins doctor")
    click.echo(f"  toolkit plugin test {name}")
    click.echo(f"  toolkit train {name}_digits")


@plugin.command()
@click.argument("package")
@click.option("-v", "--verbose", is_flag=True, help="Name every check, also those that were passed.")
@click.pass_context
def test(ctx: click.Context, package: str, verbose: bool) -> None:
    """Check what the installed PACKAGE (a plugin, its module or its distribution) registers.

    Every component is asked whether it keeps what its interface promises. What cannot be built by its
    defaults needs a case: `cases()` in the package's module `conformance` (docs/plugins.md). Exits with 1 if
    a check fails.
    """
    from toolkit.testing.package import examine

    examined = examine(package, progress=click.echo if verbose else None)
    _print(examined.outcomes, examined.without)
    failed = [outcome for outcome in examined.outcomes if outcome.status == "failed"]
    for outcome in failed:
        click.echo(f"failed: {outcome.case}, {outcome.check}: {outcome.message}")
    ctx.exit(1 if failed else 0)


def _print(outcomes: "Sequence[Outcome]", without: "Sequence[tuple[Component, str]]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    table.add_column("component", no_wrap=True)
    for heading in ("passed", "failed", "not possible, and why"):
        table.add_column(heading)
    for shown in dict.fromkeys(str(outcome.case) for outcome in outcomes):
        mine = [outcome for outcome in outcomes if str(outcome.case) == shown]
        numbers = [str(sum(o.status == status for o in mine)) for status in ("passed", "failed")]
        declared = dict.fromkeys(f"{o.check}: {o.message}" for o in mine if o.status == "declared")
        table.add_row(Text(shown), *numbers, Text("\n".join(declared)))
    for component, reason in without:
        table.add_row(Text(f"{component.interface.__name__} {component.name}"), "", "", Text(reason))
    Console(highlight=False).print(table)
