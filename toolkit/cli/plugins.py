"""`toolkit plugins`: the installed plugins, their components with all options, and their errors."""

import json
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.group import Group

if TYPE_CHECKING:
    from toolkit.registry.load import PluginReport, Plugins
    from toolkit.registry.registry import Component
    from toolkit.registry.signature import Option


@click.group(cls=Group, invoke_without_command=True, short_help="List plugins and their components.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List plugins with their distributions, and every component by kind, with its options."""
    if ctx.invoked_subcommand is not None:
        return
    from toolkit.console import echo
    from toolkit.registry.load import load

    loaded = load()
    if as_json:
        echo(json.dumps([_plugin(report) for report in loaded.reports], indent=1))
    else:
        _print(loaded)


def _print_switched_off(loaded: "Plugins") -> None:
    from toolkit.console import echo

    if loaded.switched_off:
        echo(f"switched off: {', '.join(owner.name for owner in loaded.switched_off)}")


def _plugin(report: "PluginReport") -> dict[str, Any]:
    return {
        "name": report.owner.name,
        "distribution": report.owner.distribution,
        "version": report.owner.version,
        "error": report.error,
        "components": [_component(component) for component in report.components],
    }


def _component(component: "Component") -> dict[str, Any]:
    return {
        "kind": component.kind.__qualname__,
        "name": component.name,
        "description": component.signature.doc,
        "error": component.error,
        "options": [_option(option) for option in component.options],
        "supplied": [parameter.name for parameter in component.signature.supplied],
    }


def _option(option: "Option") -> dict[str, Any]:
    required = option.required
    return {
        "name": option.name,
        "type": option.expected,
        "required": required,
        "default": None if required else option.default,
        "description": option.description,
    }


def _print(loaded: "Plugins") -> None:
    from rich.table import Table
    from rich.text import Text

    from toolkit.console import Terminal

    console = Terminal(highlight=False)
    table = Table("plugin", "distribution", "version", "", box=None)
    for report in loaded.reports:
        broken = [f"{c.name!r} cannot be used: {c.error}" for c in report.components if c.error]
        problem = report.error or "; ".join(broken)
        owner = report.owner
        table.add_row(*map(Text, (owner.name, owner.distribution, owner.version)), Text(problem, style="red"))
    console.print(table)
    _print_switched_off(loaded)
    for kind in loaded.registry.kinds():
        console.print(f"\n[bold]{kind.__qualname__}[/bold]")
        for name, component in loaded.registry.components(kind).items():
            console.print(Text.assemble("  ", (name, "cyan"), f"  {component.signature.doc}"), soft_wrap=True)
            for option in component.options:
                console.print(Text(f"      {_line(option)}", style="dim"), soft_wrap=True)


def _line(option: "Option") -> str:
    from toolkit.recipe.writer import write_value

    default = "" if option.required else f" = {write_value(option.default)}"
    return f"{option.name}{default}    {option.expected}{' (required)' if option.required else ''}"
