"""`toolkit recipes` lists the packaged recipes; `toolkit recipe` shows and checks one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.complete import recipe_names
from toolkit.cli.options import json_option

if TYPE_CHECKING:
    from toolkit.recipe import Recipe


_source = click.argument("source", metavar="RECIPE", shell_complete=recipe_names)
_overrides = click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Set one value.")


@click.command(short_help="List the packaged recipes.")
@click.argument("words", nargs=-1, metavar="[WORD]...")
@json_option
def recipes(words: tuple[str, ...], as_json: bool) -> None:
    """List the recipes that come with the toolkit and its plugins, by method: what each is trained on, the
    parameters of the network that samples, what it is for and what it costs.

    WORDs choose those in whose name, method, data or purpose all of them are: `toolkit recipes mnist gan`.
    """
    from rich.padding import Padding
    from rich.text import Text

    from toolkit.console import Terminal, echo_json
    from toolkit.errors import RecipeError
    from toolkit.recipe.packaged import packaged

    chosen = [
        recipe for recipe in packaged()
        if all(word.lower() in f"{recipe.name} {recipe.model} {recipe.purpose}".lower() for word in words)
    ]  # fmt: skip
    if not chosen:
        raise RecipeError(f"no packaged recipe has {' and '.join(map(repr, words))} in its name or purpose")
    if as_json:
        said = ("Cost", "Expect", "Suits", "Plugins")
        echo_json([
            {"recipe": one.name, **dict(zip(("method", "data", "parameters"), one.model, strict=True)),
             "purpose": one.purpose, **{key.lower(): one.said(key) for key in said},
             "from": one.plugin, "path": one.path}
            for one in chosen
        ])  # fmt: skip
        return
    terminal = Terminal()
    names, data = (
        max(map(len, column)) for column in zip(*((r.name, r.model[1]) for r in chosen), strict=True)
    )
    start = next((recipe.model[0] for recipe in chosen if recipe.name == "quickstart"), None)
    methods = {recipe.model[0] for recipe in chosen}
    for method in sorted(methods, key=lambda name: (name != start, not name, name.lower())):
        terminal.print(Text(method or "others", style="bold"))
        for recipe in (recipe for recipe in chosen if recipe.model[0] == method):
            size = f"{recipe.model[2]:>8}" + (f"  of {recipe.plugin}" if recipe.plugin != "toolkit" else "")
            terminal.print(Text(f"  {recipe.name:<{names}}  {recipe.model[1]:<{data}}{size}".rstrip()))
            cost = f" Cost: {recipe.said('Cost') or 'not stated'}"
            terminal.print(Padding(Text(recipe.purpose + cost, style="dim"), (0, 0, 0, 6)))


@click.group(short_help="Write, show or check a recipe, or the schema of recipes.")
def recipe() -> None:
    """Write a recipe for pictures of yours; show or check one, a .toml file or the name of a packaged one; or
    write the schema of recipes."""


@recipe.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.toml")
@click.option(
    "--data", "path", required=True, help="A folder of pictures, one that `datasets` reads, or a Hub id."
)
@click.option(
    "--from",
    "parent",
    metavar="RECIPE",
    shell_complete=recipe_names,
    help="The recipe to extend; by default one for this machine.",
)
def new(out: Path, path: str, parent: str | None) -> None:
    """Look at pictures and write OUT.toml, a short recipe for them that extends a packaged one."""
    from toolkit.cli.data import new as write

    write(out, path, parent)


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
