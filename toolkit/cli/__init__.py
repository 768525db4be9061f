"""The command line: one thin module per verb, which imports what is heavy only when it runs."""

from typing import Any

import click

from toolkit.cli import evaluate, imports, plugins, recipes, runs, sample, train
from toolkit.errors import ToolkitError


class _Toolkit(click.Group):
    """Prints a user's mistake without a traceback, and keeps the order in which verbs were added."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ToolkitError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(2)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Toolkit, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="diffusion-toolkit", prog_name="toolkit")
def main() -> None:
    """Train and sample diffusion models and their GAN hybrids, from recipes."""


_VERBS = (
    train.train, sample.sample, evaluate.evaluate, imports.import_weights, recipes.recipe, recipes.recipes,
    runs.runs, plugins.plugins,
)  # fmt: skip
for command in _VERBS:
    main.add_command(command)
