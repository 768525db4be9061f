"""Plain values of a recipe: conversion to a type, and messages about values that do not fit."""

import enum
import functools
import inspect
import json
import math
import os
import tomllib
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolkit.errors import nearest, printable
from toolkit.registry.flag import FlagValue

NAME_MAX, PATH_MAX = 255, 4095  # bytes, on the systems that this runs on
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
_LIMITS = {
    "ge": "of at least {}",
    "gt": "above {}",
    "le": "of at most {}",
    "lt": "below {}",
    "multiple_of": "that is a multiple of {}",
    "min_length": "of length {} or more",
    "max_length": "of length {} or less",
    "pattern": "like {}",
}


_LARGEST = 2**63 - 1  # of torch's int64


class Mismatch(Exception):
    """A value that its type does not allow; the message is `not <value>`, with a hint if there is one."""


def parse(annotation: Any, value: Any, home: Path | None = None) -> Any:
    """Convert a value to its type: a list to a tuple, text to a Path or Enum, 1 to 1.0.

    Nothing else is converted: neither "1" nor true is 1, and neither inf nor nan is a number.

    Args:
        annotation: the type.
        value: as a recipe or a JSON file has it.
        home: the saved folder that it comes from, a stranger's perhaps: every path must lead into it.

    Raises:
        Mismatch: if it does not fit, or a path leads out of `home`.
    """
    if isinstance(value, FlagValue):
        return _parse_flag(annotation, value)
    value = _without_flags(value)
    try:
        return _check(annotation, value, home)
    except _OutsideError:
        raise Mismatch(f"not {as_text(value)}, which is not inside the saved folder") from None
    except ValidationError as error:
        meant = (hint for other, hint in _meant(value) if _fits(annotation, other))
        hint = next(meant, "") or _nearest_choice(annotation, value)
        raise Mismatch(f"not {as_text(value)}{_place(value, error)}{hint}") from error
    except TypeError as error:  # dates and times, which no option takes
        raise Mismatch(f"not {as_text(value)}") from error


def _without_flags(value: Any) -> Any:
    """Members of a dict that were set by flags, as the values that they are."""
    if isinstance(value, dict):
        return {key: _without_flags(inner) for key, inner in value.items()}
    return value.value if isinstance(value, FlagValue) else value


class _OutsideError(Exception):
    """A path leads out of the folder that it must stay in."""


def _check(annotation: Any, value: Any, home: Path | None = None) -> Any:
    checked = _absolute(_adapter(annotation).validate_json(json.dumps(value)), home)
    if any(map(_impossible, _leaves(checked))):
        raise TypeError(f"nothing can be made of {checked!r}")
    return checked


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    # Only strict JSON mode takes 1 for a float and a list for a tuple, but neither "1" nor true for 1.
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _impossible(value: Any) -> bool:
    """Whether torch cannot hold such a number, or the system cannot have such a path."""
    if isinstance(value, Path):
        names = [len(os.fsencode(part)) for part in value.parts]
        return "\0" in str(value) or max(names) > NAME_MAX or sum(names) + len(names) > PATH_MAX
    return isinstance(value, int) and abs(value) > _LARGEST


def _absolute(value: Any, home: Path | None) -> Any:
    """The value with absolute paths, which stay right when the working directory changes: inside `home`.

    Without a home they are the user's, and ~ is expanded.
    """
    if isinstance(value, Path) and home is not None:
        return _inside(home, value)
    if isinstance(value, Path):
        return Path(os.path.expanduser(value)).absolute()  # a name that is no user's stays as it is
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute(inner, home) for inner in value)
    return {key: _absolute(v, home) for key, v in value.items()} if isinstance(value, dict) else value


def _inside(home: Path, path: Path) -> Path:
    """A path relative to a folder, links followed; not the folder itself: what reads itself never ends."""
    whole = home.resolve()
    try:
        result = (whole / path).resolve()
        result.exists()  # raises if the system does not allow such a name
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, a null byte
        result = whole
    if whole not in result.parents:
        raise _OutsideError
    return result


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def _fits(annotation: Any, value: Any) -> bool:
    try:
        _check(annotation, value)
    except (ValidationError, TypeError):
        return False
    return True


def _parse_flag(annotation: Any, flag: FlagValue) -> Any:
    """Read `--set run.out=123` as text if the option is text, and as a number otherwise."""
    if not _fits(annotation, flag.value) and _fits(annotation, flag.text):
        return _check(annotation, flag.text)
    return parse(annotation, flag.value)


def plain(value: Any) -> Any:
    """The value as JSON; paths become absolute."""
    return json.loads(json.dumps(value, default=_plain_leaf))


def _plain_leaf(value: Any) -> Any:
    match value:
        case Path():
            return str(value.absolute())
        case enum.Enum():
            return value.value
    raise TypeError(f"{value!r} has no place in a recipe")


def expected(annotation: Any) -> str:
    """The values that a type takes, in words: "a whole number of at least 1"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = " and ".join(_limits(args[1:]))
        return f"{expected(args[0])} {limits}" if limits else expected(args[0])
    if origin in (Union, types.UnionType) and get_origin(args[1]) is list and get_args(args[1]) == args[:1]:
        return f"{expected(args[0])}, or a list of them"
    if origin in (Union, types.UnionType):
        return ", or ".join(expected(arg) for arg in args)
    if origin is dict:
        return f"a table, each value {expected(args[1])}"
    if origin is list or (origin is tuple and args[-1] is ...):
        return f"a list, each {expected(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(map(expected, args))}"
    choices = _choices(annotation)
    if choices:
        return ("one of " if len(choices) > 1 else "") + ", ".join(map(as_text, choices))
    return _WORDS[annotation]


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    return []


def _nearest_choice(annotation: Any, value: Any) -> str:
    """`. Did you mean 'x'?` for the first text in the value that is like a choice without being one."""
    choices = [choice for choice in _choices_within(annotation) if isinstance(choice, str)]
    texts = (leaf for leaf in _leaves(value) if isinstance(leaf, str) and leaf not in choices)
    return next((f".{hint}" for text in texts if (hint := nearest(text, choices))), "")


def _choices_within(annotation: Any) -> Iterator[Any]:
    yield from _choices(annotation)
    if get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from _choices_within(inner)


def _limits(metadata: tuple[Any, ...]) -> Iterator[str]:
    # `Field(ge=1)` keeps its limits in a `metadata` of its own.
    for item in (limit for entry in metadata for limit in getattr(entry, "metadata", [entry])):
        for name, words in _LIMITS.items():
            bound = getattr(item, name, None)
            if bound is not None:
                yield words.format(bound)


def as_text(value: Any) -> str:
    """A value as a recipe would have it, short and printable."""
    value = _without_flags(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    try:
        text = printable(json.dumps(value, ensure_ascii=False))
    except TypeError:  # dates and times
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _place(value: Any, error: ValidationError) -> str:
    """The element of a list or table that does not fit: pydantic's location, as far as the value has it."""
    place, element = "", value
    for part in error.errors()[0]["loc"]:
        inside = (
            range(len(element)) if isinstance(element, list) else element if isinstance(element, dict) else ()
        )
        if part in inside:
            element, place = element[part], f"{place}[{as_text(part)}]"
    return f", where {place} is {as_text(element)}" if place else ""


def _meant(value: Any) -> Iterator[tuple[Any, str]]:
    """Values that may have been meant, each with how to write it."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            unquoted = tomllib.loads(f"value = {value.strip().lower()}")["value"]
            yield unquoted, f" (write {as_text(unquoted)} without quotes)"
    elif isinstance(value, float) and value.is_integer():
        yield int(value), f" (write {int(value)})"
    yield [value], f" (write [{as_text(value)}])"
    yield str(value), f' (write "{value}", in quotes)'
