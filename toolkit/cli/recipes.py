"""`toolkit recipes` lists the packaged recipes; `toolkit recipe` shows and checks one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from toolkit.recipe import Recipe


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from toolkit.recipe.packaged import packaged

    names = [CompletionItem(r.name, help=r.purpose) for r in packaged() if r.name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


_source = click.argument("source", metavar="RECIPE", shell_complete=_complete)
_overrides = click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one value.")


@click.command(short_help="List the packaged recipes.")
def recipes() -> None:
    """List the recipes that come with the toolkit and its plugins, with what each is for."""
    from rich.table import Table
    from rich.text import Text

    from toolkit.console import Terminal
    from toolkit.recipe.packaged import packaged

    table = Table("recipe", "purpose", "from", box=None)
    for recipe in packaged():
        table.add_row(*map(Text, (recipe.name, recipe.purpose, recipe.plugin)))
    Terminal().print(table)


@click.group(short_help="Show or check a recipe, or write the schema of recipes.")
def recipe() -> None:
    """Show or check a recipe, a .toml file or the name of a packaged one; or write the schema of recipes."""


@recipe.command()
@_source
@_overrides
@click.option("--origin", is_flag=True, help="Say which file or flag set each value.")
def show(source: str, overrides: Sequence[str], origin: bool) -> None:
    """Print the whole of RECIPE, with every default."""
    from toolkit.console import echo

    echo(_resolved(source, overrides).to_toml(origins=origin), nl=False)


@recipe.command()
@_source
@_overrides
def check(source: str, overrides: Sequence[str]) -> None:
    """Validate RECIPE, build everything in it, take one small step, sample once, and save and load once."""
    resolved = _resolved(source, overrides)

    from toolkit.console import echo
    from toolkit.errors import DataError, RecipeError, ToolkitError
    from toolkit.training.check import check_recipe

    try:
        check_recipe(resolved, echo)
    except (RecipeError, DataError):
        raise
    except ToolkitError as error:  # of the step or the samples, which no single line decides
        raise ToolkitError(f"{resolved.where()} {error}") from error


@recipe.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
def schema(out: Path | None) -> None:
    """Print a JSON Schema of recipes with all installed components, for editors to complete and check."""
    from toolkit.console import echo
    from toolkit.files import writing
    from toolkit.recipe.schema import recipe_schema
    from toolkit.registry import load as plugins

    text = json.dumps(recipe_schema(plugins.load().registry), indent=1) + "\n"
    if out is None:
        echo(text, nl=False)
    else:
        with writing(out):
            out.write_text(text, encoding="utf-8")


def _resolved(source: str, overrides: Sequence[str]) -> "Recipe":
    from toolkit.console import echo
    from toolkit.recipe import read_recipe

    resolved = read_recipe(source, overrides)
    for note in resolved.notes:
        echo(f"note: {note}", err=True)
    return resolved
