"""What a shell offers after TAB: names of recipes and of runs."""

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Packaged recipes, with what each is for; files if none begins so."""
    from toolkit.recipe.packaged import packaged

    names = [CompletionItem(r.name, help=r.purpose) for r in packaged() if r.name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def run_folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run folders in runs/ or where the word leads; folders if there is none."""
    parent = Path(os.path.dirname(incomplete) or "/") if "/" in incomplete else Path("runs")
    found = sorted(str(path.parent) for path in parent.glob("*/run.json"))
    names = [CompletionItem(name) for name in found if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="dir")]
