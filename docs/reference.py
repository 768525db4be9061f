"""The reference as Markdown, from what is registered: one page for each component, and the public names.

conf.py writes it before the site is built; nothing of it is committed.
"""

import inspect
import re
import textwrap
from pathlib import Path

import toolkit
from toolkit.recipe.sections import SECTIONS
from toolkit.recipe.writer import write_value
from toolkit.registry import load as plugins
from toolkit.registry.registry import Component, Registry
from toolkit.registry.signature import Option, read_signature


def write_reference(folder: Path) -> None:
    """Write all pages into `folder`."""
    registry = plugins.load().registry
    pages = {"index": index(registry), "options": options_page(), "python": python_page()}
    for kind in registry.kinds():
        for component in registry.components(kind).values():
            pages[page_of(component)] = component_page(component)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not rebuilt
            path.write_text(text, encoding="utf-8")


def page_of(component: Component) -> str:
    return f"{component.kind.__name__}/{component.name}"


def index(registry: Registry) -> str:
    lines = [
        "# Reference",
        "",
        "What is installed where this was built; `toolkit plugins` says what you have.",
        "",
    ]
    tree = ["options", "python"]
    for kind in registry.kinds():
        found = registry.components(kind)
        lines += [f"## {kind.__name__}", "", escaped(summary(kind)), ""] if found else []
        for component in found.values():
            lines.append(
                f"- [`{component.name}`]({page_of(component)}.md): {escaped(component.signature.doc)}"
            )
            tree.append(page_of(component))
        lines.append("")
    return "\n".join([*lines, "```{toctree}", ":hidden:", *tree, "```", ""])


def component_page(component: Component) -> str:
    owner = component.owner
    plugin = "the core" if owner.name == "toolkit" else f"plugin `{owner.name}` ({owner.distribution})"
    supplied = ", ".join(f"`{parameter.name}`" for parameter in component.signature.supplied)
    facts = [
        f'`type = "{component.name}"` is a {component.kind.__name__} of {plugin}, '
        f"`{component.factory.__module__}.{component.factory.__qualname__}`.",
        f"The toolkit supplies {supplied}." if supplied else "",
    ]
    return "\n\n".join(
        part for part in (
            f"# {component.name}", described(component.factory), *facts,
            "## Options", table(component.options) or "It has none.",
        ) if part
    ) + "\n"  # fmt: skip


def options_page() -> str:
    """The tables of a recipe that belong to no component."""
    parts = ["# Options of every recipe"]
    for section in SECTIONS:
        for target in filter(None, (section.common_options, section.interface)):
            if inspect.isclass(target) and hasattr(target, "__dataclass_fields__"):
                options = read_signature(target, supplied=()).options
                parts += [f"## `{section.header}`", escaped(summary(target)), table(options)]
    return "\n\n".join(parts) + "\n"


def python_page() -> str:
    """Everything in `toolkit.__all__`, with its docstring, and the methods of its classes."""
    parts = ["# Python", "`import toolkit`: all that plugins and scripts may use."]
    for name in sorted(toolkit.__all__, key=str.lower):
        thing = getattr(toolkit, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        parts += [f"## {name}", signature(name, thing), described(thing)]
        for method, member in vars(thing).items() if inspect.isclass(thing) else ():
            function = getattr(member, "__func__", member)
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                parts += [f"### {name}.{method}", signature(method, function), described(function)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(options: tuple[Option, ...]) -> str:
    if not options:
        return ""
    rows = ["| option | takes | default | |", "|---|---|---|---|"]
    for option in options:
        default = "required" if option.required else code(write_value(option.default))
        rows.append(
            f"| `{option.name}` | {escaped(option.expected)} | {default} | {escaped(option.description)} |"
        )
    return "\n".join(rows)


def signature(name: str, thing: object) -> str:
    """As code, without the addresses of defaults."""
    try:
        text = re.sub(r" at 0x[0-9a-f]+", "", str(inspect.signature(thing)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    return f"```python\n{name}{text}\n```"


def summary(thing: type) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def described(thing: object) -> str:
    """A docstring as it stands, where its lines and formulas mean what they look like."""
    text = inspect.getdoc(thing) or ""
    first, _, rest = text.partition("\n\n")
    rest = textwrap.dedent(rest).strip("\n")
    return escaped(first) + (f"\n\n```text\n{rest}\n```" if rest else "")


def escaped(text: str) -> str:
    """Prose outside of backticks without what Markdown would read into it."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<>\[\]|$#{}~])", r"\\\1", p) for p in parts)


def code(text: str) -> str:
    """In a table, where a bar would end the cell even in code."""
    short = text if len(text) <= 400 else text[:397] + "..."
    return "`" + short.replace("|", "\\|") + "`"
