"""Flags from the options of a component: `--start NAME` adds one for each option of NAME."""

import argparse
from typing import Any

import click

from toolkit.errors import PluginError, ToolkitError

FLAGS = "flags of a component"


class TakesStart(click.Command):
    """A command with --start, whose callback gets the options of that start as they were typed.

    An option that shares its name with one of the command's own flags can only be set in a recipe.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        reader.add_argument("--start", nargs="?")
        chosen = reader.parse_known_args(args)[0].start
        if chosen is not None:
            taken = {parameter.name for parameter in self.params}
            ctx.meta[FLAGS] = [flag for flag in flags_of(chosen) if flag.name not in taken]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *ctx.meta.get(FLAGS, ())]


def flags_of(start: str) -> list[click.Option]:
    """One flag for each option of a registered start."""
    from toolkit.diffusion.start import Start
    from toolkit.registry import load as plugins

    registry = plugins.load().registry
    try:
        options = registry.component(Start, start).options
    except PluginError as error:
        raise PluginError("\n".join([*registry.broken(), f"--start: {error}"])) from None
    return [
        click.Option(
            [f"--{option.name.replace('_', '-')}", option.name],
            metavar="VALUE",
            help=f"{option.description} ({option.expected})",
        )
        for option in options
    ]


def read_flags(flags: dict[str, str | None]) -> dict[str, Any]:
    """The values of the flags that were given, each read as `--set` reads it.

    Raises:
        ToolkitError: if a value is not text.
    """
    from toolkit.errors import printable
    from toolkit.recipe.toml import parse_flag

    values = {}
    for name, text in flags.items():
        try:
            if text is not None:
                values[name] = parse_flag(f"{name}={text}")[1]
        except ValueError as error:
            raise ToolkitError(f"--{name.replace('_', '-')} {printable(str(text))}: {error}") from None
    return values
