"""Errors that a user can cause; the command line prints them without a traceback and exits with code 2."""

import difflib
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PROBLEMS, CHARACTERS = 50, 2_000  # a message shows at most so many problems, each on a line that long


class ToolkitError(Exception):
    """A mistake in the user's input; the message says where, what, and what was expected.

    Any other exception is a bug, ours or a plugin's, and keeps its traceback.

    Args:
        message: one line for each problem.
        option: the option of the component being built that is at fault, whose line of the recipe is then
            named; else it is its table's.
    """

    def __init__(self, message: object = "", *, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class RecipeError(ToolkitError):
    """A recipe, or a table of one, that cannot be used; one line for each problem."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a recipe, at the table or key `path`.

    `unknown` is a key that its table does not have, but another may. `uninstalled` means that a plugin is
    missing, or could not be loaded. The hint costs time, and is asked for only if the problem is shown.
    """

    path: tuple[str, ...]
    text: str
    hint: Callable[[], str] = str
    unknown: str | None = None
    uninstalled: bool = False


class PluginError(ToolkitError):
    """A plugin, or a component of one, that is needed but missing, switched off or broken."""


class DataError(ToolkitError):
    """Training data that is missing, unreadable or not what the recipe says."""


class RunError(ToolkitError):
    """A run folder, or a way of launching a run, that cannot be used."""


class CheckpointError(ToolkitError):
    """A checkpoint or saved pipeline that is incomplete, altered or of another run."""


class TrainingError(ToolkitError):
    """Training that cannot continue: a loss that is not finite, or a parameter that never learns."""


class SamplingError(ToolkitError):
    """Samples that are not finite numbers, or do not fit in memory."""


def one_line(error: BaseException) -> str:
    """An error from somebody else's code, on one line."""
    text = str(error) if isinstance(error, ToolkitError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def place_of(error: BaseException, module: str) -> str | None:
    """`file:line` of the innermost frame in a package's own code that the error passed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = module.partition(".")[0]
    own = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return own[-1] if own else None


def out_of_memory(error: BaseException) -> bool:
    """Whether something is too large for memory; only on accelerators torch has an exception for that."""
    text = isinstance(error, RuntimeError) and re.search(
        "allocate memory|out of memory|overflow", str(error), re.I
    )
    return isinstance(error, MemoryError | OverflowError) or bool(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of the known names, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def printable(text: str) -> str:
    """The text with control characters and lone surrogates, which a terminal cannot show, escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def shortened(line: str) -> str:
    """The line without its middle if it is too long to read."""
    half = CHARACTERS // 2
    return line if len(line) <= CHARACTERS else f"{line[:half]} ... {line[-half:]}"


def for_terminal(text: str) -> str:
    """Lines of text as a terminal may get them: `printable`, but for the ends of lines and tabs.

    Names of folders, plugins and files may be a stranger's, and a terminal obeys escape sequences in them.
    """
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" else printable(char) for char in text)
