"""Flags that a component brings along: `--init NAME` makes flags of the options of NAME."""

import argparse
from typing import Any

import click

from toolkit.errors import PluginError, ToolkitError

FLAGS = "flags of a component"


class TakesInitialiser(click.Command):
    """A command with --init; its callback gets the options of that initialiser as they were typed.

    An option whose name is that of a flag of the command itself can only be set in a recipe.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        reader.add_argument("--init", nargs="?")
        chosen = reader.parse_known_args(args)[0].init
        if chosen is not None:
            taken = {parameter.name for parameter in self.params}
            ctx.meta[FLAGS] = [flag for flag in flags_of(chosen) if flag.name not in taken]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *ctx.meta.get(FLAGS, ())]


def flags_of(initialiser: str) -> list[click.Option]:
    """One flag for each option of a registered initialiser."""
    from toolkit import plugins
    from toolkit.initialiser import Initialiser

    try:
        options = plugins.load().registry.component(Initialiser, initialiser).options
    except PluginError as error:
        raise PluginError(f"--init: {error}") from None
    return [
        click.Option(
            [f"--{option.name.replace('_', '-')}", option.name],
            metavar="VALUE",
            help=f"{option.description} ({option.expected})",
        )
        for option in options
    ]


def stated(flags: dict[str, str | None]) -> dict[str, Any]:
    """The values of those that were given, each read as `--set` reads it.

    Raises:
        ToolkitError: if one is no text.
    """
    from toolkit.recipe.toml import parse_flag, printable

    values = {}
    for name, text in flags.items():
        try:
            if text is not None:
                values[name] = parse_flag(f"{name}={text}")[1]
        except ValueError as error:
            raise ToolkitError(f"--{name.replace('_', '-')} {printable(str(text))}: {error}") from None
    return values
