"""Tables as TOML text. None is written as "none", as in a recipe."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from toolkit.recipe.toml import KeyPath


def write_toml(tables: Mapping[str, Any], comment: Callable[[KeyPath], str] | None = None) -> str:
    """The tables as a TOML document; `comment` gives a remark to add after each key."""
    return "\n".join(_lines(tables, (), comment)).strip() + "\n"


def _lines(
    table: Mapping[str, Any], path: KeyPath, comment: Callable[[KeyPath], str] | None
) -> Iterator[str]:
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    if path and (not inner or len(inner) < len(table)):
        yield f"\n[{dotted(path)}]"
    for key, value in table.items():
        if key not in inner:
            remark = f"  # {comment((*path, key))}" if comment else ""
            yield f"{_key(key)} = {write_value(value)}{remark}"
    for key, value in inner.items():
        yield from _lines(value, (*path, key), comment)


def dotted(path: KeyPath) -> str:
    """A path in TOML's notation: `a.b`, with quotes where a key needs them."""
    return ".".join(map(_key, path))


def _escaped(match: re.Match[str]) -> str:
    """A character that can be shown as it is; another, such as DEL, by its number."""
    char = match[0]
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else write_value(key)


def write_value(value: Any) -> str:
    """A value in TOML's notation."""
    match value:
        case None:
            return '"none"'
        case list():
            return f"[{', '.join(map(write_value, value))}]"
        case dict():
            return f"{{{', '.join(f'{_key(key)} = {write_value(inner)}' for key, inner in value.items())}}}"
        case str():
            # JSON escapes as TOML does, except for surrogate pairs, which are never written.
            return re.sub(r"[^ -~]", _escaped, json.dumps(value, ensure_ascii=False))
    return json.dumps(value)
