"""What a Google-style docstring says about a component and its options."""

import inspect
import re


def first_sentence(docstring: str | None) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(inspect.cleandoc(docstring or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph, maxsplit=1)[0]


def descriptions_in(docstring: str | None) -> dict[str, str]:
    """Descriptions of parameters, from the "Args:" or "Parameters:" section of a Google-style docstring."""
    text = inspect.cleandoc(docstring or "")
    section = re.search(
        r"^(?:Args|Arguments|Parameters):[ ]*\n((?:[ \t]+\S.*\n?|[ \t]*\n)*)", text, re.MULTILINE
    )
    lines = section[1].rstrip() if section else ""
    indent = lines[: len(lines) - len(lines.lstrip(" "))]
    entry = re.compile(
        rf"^{indent}(\w+)[ ]*(?:\(.*?\))?[ ]*:(.*(?:\n(?:{indent}[ ]+\S.*|[ ]*(?=\n)))*)", re.MULTILINE
    )
    return {name: " ".join(words.split()) for name, words in entry.findall(lines)} if lines else {}
