"""`toolkit plugin new`, `toolkit plugin test` and `toolkit plugins doctor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from toolkit import Component
    from toolkit.testing import Outcome
    from toolkit_author.doctor import Diagnosis


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

    from toolkit.commands import echo
    from toolkit_author.scaffold import write_plugin

    folder = write_plugin(name, parent)
    echo(f"{folder} has an objective {name!r} that trains, to be replaced by yours")
    echo("try next")
    echo(f"  pip install -e {shlex.quote(f'{folder}[dev]')}")
    echo("  toolkit plugins doctor")
    echo(f"  toolkit plugin test {name}")
    echo(f"  toolkit train {name}_digits")


@plugin.command()
@click.argument("package")
@click.option("-v", "--verbose", is_flag=True, help="Name every check, including those that pass.")
@click.pass_context
def test(ctx: click.Context, package: str, verbose: bool) -> None:
    """Check what the installed PACKAGE (a plugin, its module or its distribution) registers.

    Every component is checked against what its interface promises. One that cannot be built from its
    defaults needs a case: `cases()` in the package's module `conformance` (docs/plugins.md). Exits with 1 if
    a check fails.
    """
    from toolkit.commands import echo
    from toolkit.testing.package import examine

    examined = examine(package, progress=echo if verbose else None)
    _print(examined.outcomes, examined.without)
    failed = [outcome for outcome in examined.outcomes if outcome.status == "failed"]
    for outcome in failed:
        echo(f"failed: {outcome.case}, {outcome.check}: {outcome.message}")
    ctx.exit(1 if failed else 0)


def _print(outcomes: "Sequence[Outcome]", without: "Sequence[tuple[Component, str]]") -> None:
    from rich.table import Table
    from rich.text import Text

    from toolkit.commands import Terminal

    table = Table(box=None)
    table.add_column("component", no_wrap=True)
    for heading in ("passed", "failed", "not possible, and why"):
        table.add_column(heading)
    for case in dict.fromkeys(str(outcome.case) for outcome in outcomes):
        mine = [outcome for outcome in outcomes if str(outcome.case) == case]
        numbers = [str(sum(o.status == status for o in mine)) for status in ("passed", "failed")]
        declared = dict.fromkeys(f"{o.check}: {o.message}" for o in mine if o.status == "declared")
        table.add_row(Text(case), *numbers, Text("\n".join(declared)))
    for component, reason in without:
        table.add_row(Text(f"{component.interface.__name__} {component.name}"), "", "", Text(reason))
    Terminal(highlight=False).print(table)


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Show what each plugin registers, what is wrong with it, and what to try; exit with 1 if anything is."""
    from toolkit import load_plugins
    from toolkit.commands import echo
    from toolkit_author.doctor import examine

    loaded = load_plugins()
    examined = examine(loaded)
    for diagnosis in examined:
        _print_diagnosis(diagnosis)
    if loaded.switched_off:
        echo(f"switched off: {', '.join(owner.name for owner in loaded.switched_off)}")
    faulty = [diagnosis.report.owner.name for diagnosis in examined if diagnosis.faults]
    echo(f"\nlook at: {', '.join(faulty)}" if faulty else "\nall is well")
    ctx.exit(1 if faulty else 0)


def _print_diagnosis(diagnosis: "Diagnosis") -> None:
    from toolkit.commands import echo

    report = diagnosis.report
    source = report.owner.source or "the core"
    mark, colour = ("!!", "red") if diagnosis.faults else ("ok", "green")
    click.secho(f"{mark} ", fg=colour, nl=False)
    echo(f"{report.owner.name} ({source})")
    commands = [name.replace(".", " ") for name in diagnosis.commands]  # as they are typed
    registered = {**diagnosis.names, "observes": report.observers, "commands": commands}
    for what, names in registered.items():
        if names:
            echo(f"     {what}: {', '.join(names)}")
    for fault in diagnosis.faults:
        echo(f"  !! {fault.text}\n     try: {fault.remedy}")
