"""The command line: one thin module per verb, imported when it is asked for."""

import importlib
from typing import Any

import click

from toolkit.errors import ToolkitError

_VERBS = {
    "train": "toolkit.cli.train",
    "sample": "toolkit.cli.sample",
    "recipe": "toolkit.cli.recipes",
    "recipes": "toolkit.cli.recipes",
    "plugins": "toolkit.cli.plugins",
}


class _Verbs(click.Group):
    """Imports a verb's module when it is asked for, and prints a user's mistake without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(_VERBS[cmd_name]), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ToolkitError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(2)


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diffusion-toolkit", prog_name="toolkit")
def main() -> None:
    """Train and sample diffusion models and their GAN hybrids, from recipes."""
