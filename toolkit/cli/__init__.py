"""The command line: one thin module per verb, which imports what is heavy only when it runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from toolkit.cli import (
    compare,
    cost,
    evaluate,
    imports,
    plugin,
    plugins,
    push,
    recipes,
    report,
    runs,
    sample,
    train,
)
from toolkit.errors import ToolkitError
from toolkit.installed import VARIABLE


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
@click.option(
    "--plugins", "only", envvar=VARIABLE, show_envvar=True, metavar="none|A,B",
    help="Load these plugins only, to find one that is at fault.",
)  # fmt: skip
@click.version_option(package_name="diffusion-toolkit", prog_name="toolkit")
@click.pass_context
def main(ctx: click.Context, only: str | None) -> None:
    """Train and sample diffusion models and their GAN hybrids, from recipes."""
    if only is not None:
        ctx.with_resource(_only(only))


@contextmanager
def _only(plugins: str) -> Iterator[None]:
    """Say it where processes that this one starts see it too."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = plugins
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


_VERBS = (
    train.train, sample.sample, evaluate.evaluate, cost.cost, imports.import_weights, push.push,
    recipes.recipe, recipes.recipes, runs.runs, compare.compare, report.report,
    plugins.plugins, plugin.plugin,
)  # fmt: skip
for command in _VERBS:
    main.add_command(command)
