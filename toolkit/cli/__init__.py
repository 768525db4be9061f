"""The command line: one thin module per verb; heavy imports wait until a command runs."""

import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from toolkit.cli import data, evaluate, imports, plugins, recipes, runs, sample, train
from toolkit.cli.group import Group
from toolkit.errors import ToolkitError, for_terminal, printable, shortened
from toolkit.registry.discover import VARIABLE


class _Toolkit(Group):
    """Prints a user's mistake, or what the system refuses, without a traceback."""

    outermost = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*map(_at_home, args)])

    def main(self, *args: Any, **extra: Any) -> Any:
        # Imports make many objects and hardly any garbage: looking for it so often costs a command its start.
        gc.set_threshold(50_000, *gc.get_threshold()[1:])
        try:
            try:
                return super().main(*args, **extra)
            finally:
                if sys.stdout is not None:  # closed
                    sys.stdout.flush()  # a full disk is answered here, and not at exit
        except ToolkitError as error:
            lines = str(error).splitlines()
        except OSError as error:
            lines = [_reason(error)]
            if error.filename is None:  # what could not be written is not tried again at exit
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        with suppress(OSError):  # of stderr
            for line in lines:
                click.echo(f"error: {printable(shortened(line))}", err=True)
        sys.exit(2)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            value = re.search(r"unexpected extra argument\w* \(([\w.]+=\S*)", error.message)
            hint = f". To set a value: --set {value[1].rstrip(')')}" if value else ""
            if isinstance(error, click.NoSuchOption) and "--set" in (error.possibilities or ()):
                hint = f" To set a value of the recipe: --set SECTION.{error.option_name.lstrip('-')}=..."
                vars(error)["possibilities"] = None  # they are none of these
            vars(error)["message"] = for_terminal(error.message + hint)  # it quotes file names as they are
            raise
        except KeyboardInterrupt:  # click would say "Aborted!" and exit with 1
            with suppress(OSError):
                click.echo("interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)


def _at_home(argument: str) -> str:
    """`--out=~/x` as `--out ~/x` has it: shells expand ~ only at the beginning of a word."""
    flag, equals, value = argument.partition("=")
    return f"{flag}={os.path.expanduser(value)}" if equals and flag.startswith("--") else argument


def _reason(error: OSError) -> str:
    full = error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = "cannot write: " if full else "" if error.filename is None else f"{error.filename}: "
    return " ".join(f"{what}{error.strerror or error}".split())


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
    runs.runs, runs.clean, data.data, plugins.plugins,
)  # fmt: skip
for command in _VERBS:
    main.add_command(command)
