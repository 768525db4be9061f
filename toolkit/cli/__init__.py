"""The command line: one thin module per verb; heavy imports wait until a command runs."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from toolkit.cli import evaluate, imports, plugins, recipes, runs, sample, train
from toolkit.cli.group import Group
from toolkit.errors import ToolkitError
from toolkit.registry.discover import VARIABLE


class _Toolkit(Group):
    """Prints a user's mistake without a traceback."""

    outermost = True

    def invoke(self, ctx: click.Context) -> Any:
        # Imports make many objects and hardly any garbage: looking for it so often costs a command its start.
        gc.set_threshold(50_000, *gc.get_threshold()[1:])
        try:
            return super().invoke(ctx)
        except ToolkitError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(2)


def _only(ctx: click.Context, param: click.Parameter, plugins: str | None) -> None:
    """Set the variable, which child processes see too, before a command is looked up."""
    if plugins is not None:
        ctx.with_resource(_set(plugins))


@contextmanager
def _set(plugins: str) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = plugins
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@click.group(cls=_Toolkit, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--plugins", envvar=VARIABLE, show_envvar=True, metavar="none|A,B", is_eager=True, expose_value=False,
    callback=_only, help="Load only these plugins, to find a faulty one.",
)  # fmt: skip
@click.version_option(package_name="diffusion-toolkit", prog_name="toolkit")
def main() -> None:
    """Train and sample diffusion models and their GAN hybrids, from recipes."""


_VERBS = (
    train.train, sample.sample, evaluate.evaluate, imports.import_weights, recipes.recipe, recipes.recipes,
    runs.runs, plugins.plugins,
)  # fmt: skip
for command in _VERBS:
    main.add_command(command)
