"""What a shell offers after TAB: names of recipes, of runs and of components."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Packaged recipes, with what each is for; runs and files if none begins so."""
    from toolkit.recipe.packaged import packaged

    if "/" in incomplete and (runs := _runs(incomplete)):
        return runs
    names = [CompletionItem(r.name, help=r.purpose) for r in packaged() if r.name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]


def run_folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run folders in runs/ or where the word leads; folders if there is none."""
    return _runs(incomplete) or [CompletionItem(incomplete, type="dir")]


def _runs(incomplete: str) -> list[CompletionItem]:
    parent = Path(os.path.dirname(incomplete) or "/") if "/" in incomplete else Path("runs")
    found = sorted(str(path.parent) for path in parent.glob("*/run.json"))
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


Completion = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def component_names(interface: str) -> Completion:
    """Registered components of an interface, such as "toolkit.diffusion.sampler:Sampler".

    Names may stand after others and a comma. Plugins are loaded, which takes some seconds.
    """

    def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from toolkit.registry.load import load

        module, _, name = interface.partition(":")
        before, comma, begun = incomplete.rpartition(",")
        found = load().registry.components(getattr(import_module(module), name))
        return [CompletionItem(f"{before}{comma}{one}") for one in sorted(found) if one.startswith(begun)]

    return names
