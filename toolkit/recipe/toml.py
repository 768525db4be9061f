"""TOML with line numbers: values by tomllib, the rows of their keys by tree-sitter."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_toml

from toolkit.errors import RecipeError, nearest, printable
from toolkit.registry.flag import FlagValue

KeyPath = tuple[str, ...]

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 20  # recipes need five; far deeper, our recursion or a library's would overflow the stack
_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\\\n]*"|'[^'\n]*')"""
_DOTTED = rf"\s*{_KEY}(?:\s*\.\s*{_KEY})*\s*"


def read_toml(path: Path, shown_as: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The values of a file, and the line of every key; elements of arrays have their index as key.

    Raises:
        RecipeError: if there is no such file, or it is not TOML.
    """
    try:
        if not path.exists():
            siblings = sorted(file.name for file in path.parent.glob("*.toml"))
            raise RecipeError(f"{shown_as} does not exist.{nearest(path.name, siblings)}")
        if not path.is_file():  # opening a pipe would wait forever
            raise RecipeError(f"{shown_as} is not a file.")
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{shown_as} is larger than {_MAX_BYTES:,} bytes: that is not a recipe.")
        text = path.read_bytes().decode("utf-8-sig")  # editors on Windows write a byte-order mark
        return _loads(text), dict(_rows(text.encode()))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{shown_as}{_reason(error)}") from error
    except RecursionError as error:
        raise RecipeError(f"{shown_as} is nested more than {_MAX_DEPTH} deep.") from error


def _loads(text: str) -> dict[str, Any]:
    """The values; ValueError if the text is not TOML, or has a number that could not be shown."""
    values = tomllib.loads(text)
    json.dumps(values, default=str)  # raises ValueError for hexadecimal numbers too long to print
    return values


def _reason(error: OSError | ValueError) -> str:
    """How a message goes on behind the file's name: with the line, where tomllib says it."""
    match error:
        case OSError():
            return f" cannot be read: {error.strerror or error}."
        case UnicodeDecodeError():
            return f" is not UTF-8 text: byte {error.start} does not fit."
    message = printable(str(error)).replace("Cannot overwrite a value", "this key is already set")
    position = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message)
    return f":{position[2]}: {position[1]} (column {position[3]})." if position else f": {message}."


def _rows(text: bytes) -> Iterator[tuple[KeyPath, int]]:
    """Each key with its line, from 1, in the order of the text; RecursionError beyond `_MAX_DEPTH`."""
    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language())).parse(text)
    elements: dict[KeyPath, int] = {}
    for node in tree.root_node.named_children:
        match node.type:
            case "pair":
                yield from _pair_rows(node, ())
            case "table" | "table_array_element":
                header, *pairs = [child for child in node.named_children if child.type != "comment"]
                path = _within(_key(header), elements)
                if node.type == "table_array_element":
                    yield path, header.start_point[0] + 1
                    elements[path] = elements.get(path, -1) + 1
                    path = (*path, str(elements[path]))
                yield from _prefix_rows(path, 0, header)
                for pair in pairs:
                    yield from _pair_rows(pair, path)


def _within(path: KeyPath, elements: dict[KeyPath, int]) -> KeyPath:
    """`[a.b]` after `[[a]]` belongs to the newest element of a."""
    for length in range(len(path) - 1, 0, -1):
        if path[:length] in elements:
            return (*_within(path[:length], elements), str(elements[path[:length]]), *path[length:])
    return path


def _pair_rows(pair: tree_sitter.Node, table: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    key, value = [child for child in pair.named_children if child.type != "comment"]
    path = (*table, *_key(key))
    yield from _prefix_rows(path, len(table), key)
    yield from _value_rows(value, path)


def _value_rows(value: tree_sitter.Node, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
    children = [child for child in value.named_children if child.type != "comment"]
    if value.type == "inline_table":
        for pair in children:
            yield from _pair_rows(pair, path)
    elif value.type == "array":
        for index, element in enumerate(children):
            yield from _prefix_rows((*path, str(index)), len(path), element)
            yield from _value_rows(element, (*path, str(index)))


def _prefix_rows(path: KeyPath, known: int, node: tree_sitter.Node) -> Iterator[tuple[KeyPath, int]]:
    """The line of each prefix: `a.b.c` sets a, a.b and a.b.c."""
    if len(path) > _MAX_DEPTH:
        raise RecursionError
    for length in range(known + 1, len(path) + 1):
        yield path[:length], node.start_point[0] + 1


def _key(node: tree_sitter.Node) -> KeyPath:
    """The parts of a key; tomllib undoes the escapes."""
    assert node.text is not None
    table, parts = tomllib.loads(f"{node.text.decode()} = 0"), []
    while isinstance(table, dict):
        [(part, table)] = table.items()
        parts.append(part)
    return tuple(parts)


def parse_key(text: str) -> KeyPath:
    """The parts of a dotted key such as `optimizers.denoiser.lr`; parts may be quoted.

    Raises:
        ValueError: if it is not a key.
    """
    if not re.fullmatch(_DOTTED, text) or text.count(".") >= _MAX_DEPTH:
        raise ValueError(f"{printable(text)!r} is not a key such as a.b")
    return tuple(part.strip("\"'") for part in re.findall(_KEY, text))


def parse_flag(flag: str) -> tuple[KeyPath, Any]:
    """The key and the value of `--set a.b=c`; a value that is not TOML is text.

    Raises:
        ValueError: if the key is missing or is not a key.
    """
    flag.encode()  # raises ValueError for bytes of the command line that are not text
    assignment = re.match(rf"({_DOTTED})=(.*)", flag, re.DOTALL)
    if assignment is None:
        raise ValueError("must be a key, =, and a value, such as run.steps=100")
    key, text = parse_key(assignment[1]), assignment[2]
    try:
        parsed = _loads(f"value = {text}")
        [value] = parsed.values()  # text with a line break could set a second key
        dict(_rows(f"value = {text}".encode()))  # for its limit on depth
    except (ValueError, RecursionError):
        return key, text
    return key, value if isinstance(value, (str, dict)) else FlagValue(text, value)
