"""Docstrings, signatures and options as Markdown."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence

from toolkit.recipe.writer import write_value
from toolkit.registry.signature import Option

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):\n((?:(?: .*)?\n)*)", re.MULTILINE)


def described(thing: object, but: Sequence[str] = ()) -> str:
    """A docstring: prose, formulas as they stand, and lists of its sections except those named in `but`."""
    text = (inspect.getdoc(thing) or "") + "\n"
    parts, begin = [], 0
    for section in SECTION.finditer(text):
        parts.append(prose(text[begin : section.start()]))
        if section[1] not in but:
            parts.append(f"**{section[1]}**\n\n{items(section[2], named=section[1] != 'Returns')}")
        begin = section.end()
    return "\n\n".join(filter(None, [*parts, prose(text[begin:])]))


def prose(text: str) -> str:
    """Paragraphs; one that is set in, or in columns, is code."""
    if "```" in text:
        return text.strip()
    paragraphs = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(
        f"```text\n{textwrap.dedent(part)}\n```" if re.search(r"^ {2}|\S {3}", part, re.MULTILINE)
        else escaped(part) for part in paragraphs if part.strip()
    )  # fmt: skip


def items(text: str, named: bool) -> str:
    """The entries of a section as a list, each `name: what it is`."""
    entries = re.split(r"\n(?=\S)", textwrap.dedent(text).strip())
    if not named:
        return escaped(" ".join(entries))
    rows = (entry.partition(":") for entry in entries)
    return "\n".join(f"- `{name.strip()}`: {escaped(rest)}" for name, _, rest in rows)


def summary(thing: object) -> str:
    """The first paragraph of a docstring, escaped."""
    return escaped((inspect.getdoc(thing) or "").split("\n\n")[0])


def listed(options: Sequence[Option], link: dict[str, str]) -> str:
    """Options with what they take and their defaults; `link` has the pages of interfaces by name."""
    rows = []
    for option in options:
        takes = escaped(option.expected)
        if option.nested is not None and (page := link.get(option.nested.__name__)):
            takes = takes.replace(f"({option.nested.__name__})", f"([{option.nested.__name__}]({page}))")
        default = "required" if option.required else f"by default {code(write_value(option.default))}"
        text = f": {escaped(option.description)}" if option.description else ""
        rows.append(f"- **`{option.name}`**, {takes}, {default}{text}")
    return "\n".join(rows)


def signature(name: str, thing: object) -> str:
    """A call as code: names without their modules, defaults without addresses, a line a parameter if long."""
    try:
        found = inspect.signature(thing)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    lines = [readable(f"{name}{found}")]
    if len(lines[0]) > 90:
        lines = [f"{name}(", *parameters(found), readable(str(found.replace(parameters=()))[1:])]
    return "```python\n" + "\n".join(lines) + "\n```"


def parameters(found: inspect.Signature) -> Iterator[str]:
    """The parameters, one a line, with the marks of positional and of keyword-only ones."""
    kinds = [parameter.kind for parameter in found.parameters.values()]
    for i, parameter in enumerate(found.parameters.values()):
        if (
            parameter.kind is parameter.KEYWORD_ONLY
            and parameter.VAR_POSITIONAL not in kinds[:i]
            and (parameter.KEYWORD_ONLY not in kinds[:i])
        ):
            yield "    *,"
        yield f"    {readable(str(parameter))},"
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.kind not in kinds[i + 1 :]:
            yield "    /,"


def readable(text: str) -> str:
    text = re.sub(r"<function (?:<lambda>|(\S+))(?: at 0x[0-9a-f]+)?>", lambda found: found[1] or "...", text)
    text = text.replace("<factory>", "...")
    return re.sub(r"(?<![\w.'\"])(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)


def attributes(thing: type) -> str:
    """Attributes that the body of a class states and its docstring does not describe, with their comments."""
    try:
        source = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return ""
    lines, rows = source.splitlines(), []
    described_already = set(re.findall(r"^ {4}(\w+):", inspect.getdoc(thing) or "", re.MULTILINE))
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, comment = node.target.id, lines[node.lineno - 1].partition("  # ")[2]
        if not name.startswith("_") and name not in described_already:
            rows.append(
                f"- `{name}: {readable(ast.unparse(node.annotation))}`"
                + (f": {escaped(comment)}" if comment else "")
            )
    return "\n".join(rows)


def escaped(text: str) -> str:
    """Prose outside of backticks without what Markdown would read into it."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<>\[\]|$#{}~])", r"\\\1", p) for p in parts)


def code(text: str) -> str:
    return "`" + (text if len(text) <= 400 else text[:397] + "...") + "`"
