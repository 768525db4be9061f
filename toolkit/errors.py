"""What a user can do wrong. The command line prints these without a traceback and exits with code 2."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class ToolkitError(Exception):
    """A mistake in what the user gave; the message says where, what, and what was expected.

    Everything else that is raised is a mistake of ours or of a plugin's, and keeps its traceback.
    """


class RecipeError(ToolkitError):
    """A recipe, or a table of one, that cannot be used; one line for each problem."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a recipe, at the table or key `path`.

    `unknown` is a key that its table does not have: it may be an option of another. `uninstalled` says that a
    plugin is missing, or could not be loaded.
    """

    path: tuple[str, ...]
    text: str
    hint: str = ""
    unknown: str | None = None
    uninstalled: bool = False


class PluginError(ToolkitError):
    """A plugin, or a component of one, that is asked for and cannot be had."""


class DataError(ToolkitError):
    """Training data that is missing, unreadable or not what the recipe says."""


class RunError(ToolkitError):
    """A run folder, or a way of launching a run, that cannot be used."""


class CheckpointError(ToolkitError):
    """A checkpoint or saved pipeline that is incomplete, altered or of another run."""


class TrainingError(ToolkitError):
    """Training that cannot go on: a loss that is not finite, or a parameter that never learns."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of the known names, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
