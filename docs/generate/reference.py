"""The reference, from what is registered: components by kind, options, commands, public names of Python."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import click
import torch

import toolkit
import toolkit.api
import toolkit.commands
import toolkit.testing
from generate.examples import example_of
from generate.markdown import attributes, described, escaped, listed, signature, summary
from generate.pages import write_pages
from toolkit.cli import main
from toolkit.evaluation.features import FeatureExtractor
from toolkit.evaluation.metric import Metric
from toolkit.pipeline.importer import Importer
from toolkit.recipe.sections import SECTIONS
from toolkit.registry import load as plugins
from toolkit.registry.registry import Component, Registry
from toolkit.registry.signature import read_signature

# The names that a script needs; all others are for authors of plugins.
SCRIPTS = (
    "train", "load", "evaluate", "Run", "Pipeline", "PipelineOutput", "load_network", "read_recipe",
    "read_data", "to_grid", "to_image", "to_uint8", "load_plugins", "Plugins", "PluginReport", "ToolkitError",
    "CheckpointError", "DataError", "PluginError", "RecipeError", "RunError", "SamplingError",
    "TrainingError",
)  # fmt: skip
# Kinds whose interface is a class of torch, which says nothing of recipes.
FOREIGN = {
    torch.nn.Module: ("Network", "What a recipe builds for a role of its objective, by `[networks.<role>]`."),
    torch.optim.Optimizer: ("Optimizer", "Moves the weights of a role, by `[optimizers.<role>]`."),
}
# How a component is used that recipes have no place for.
COMMANDS = {
    Metric: "toolkit evaluate runs/mine --metrics {name}",
    FeatureExtractor: "toolkit evaluate runs/mine --metrics fid --features {name}",
    Importer: "toolkit import {name} weights.pth my_pipeline",
}


def write_reference(folder: Path) -> None:
    """Write all pages into `folder`."""
    registry = plugins.load().registry
    kinds = [kind for kind in registry.kinds() if registry.components(kind)]
    pages = {
        "index": index(kinds, registry), "options": options_page(registry), "commands": commands_page(),
        "python": python_page("Python for scripts", "What scripts and notebooks use.", toolkit, SCRIPTS),
        "interfaces": interfaces_page(),
        "authors": python_page("Python for plugins", "What plugins may use.", toolkit, authors_names()),
        "testing": testing_page(),
        "plugin_commands": python_page(
            "toolkit.commands", "What commands of plugins share; see [commands](../plugins.md#commands).",
            toolkit.commands, toolkit.commands.__all__,
        ),
    }  # fmt: skip
    for kind in kinds:
        pages[f"{title(kind)}/index"] = kind_page(kind, registry)
        for component in registry.components(kind).values():
            pages[page_of(component)] = component_page(component, registry)
    write_pages(folder, pages)


def title(kind: type) -> str:
    return FOREIGN[kind][0] if kind in FOREIGN else kind.__name__


def page_of(component: Component) -> str:
    return f"{title(component.kind)}/{component.name}"


def links(registry: Registry, up: str) -> dict[str, str]:
    """The pages of kinds by the names of their classes, with `up` before them."""
    return {
        kind.__name__: f"{up}{title(kind)}/index.md" for kind in registry.kinds() if registry.components(kind)
    }


def what(kind: type) -> str:
    return FOREIGN[kind][1] if kind in FOREIGN else summary(kind)


def tree(pages: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", *pages, "```"])


def joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def index(kinds: list[type], registry: Registry) -> str:
    parts = [
        "# Reference",
        "From the code, for what is installed where this was built; `toolkit plugins` says what you have.",
        "- [Options of every recipe](options.md): the sections that belong to no component\n"
        "- [Commands](commands.md): `toolkit` and all its verbs\n"
        "- [Python for scripts](python.md): train, load, evaluate, sample\n"
        "- Python for plugins: [interfaces](interfaces.md), [the rest of `toolkit`](authors.md), "
        "[`toolkit.commands`](plugin_commands.md), [`toolkit.testing`](testing.md)",
        "## Components",
    ]
    for kind in kinds:
        found = ", ".join(f"[`{c.name}`]({page_of(c)}.md)" for c in registry.components(kind).values())
        parts.append(f"**[{title(kind)}]({title(kind)}/index.md).** {what(kind)}\n{found}")
    pages = ("options", "commands", "python", "interfaces", "authors", "plugin_commands", "testing")
    return joined([*parts, tree([*pages, *(f"{title(kind)}/index" for kind in kinds)])])


def kind_page(kind: type, registry: Registry) -> str:
    """A kind: its components, and its interface where that is not among the public names."""
    found = registry.components(kind).values()
    rows = []
    for c in found:
        of = [] if c.interface is kind else [c.interface.__name__]
        of += [] if c.owner.name == "toolkit" else [f"plugin `{c.owner.name}`"]
        about = f" ({', '.join(of)})" if of else ""
        rows.append(f"- [`{c.name}`]({c.name}.md){about}: {escaped(c.signature.doc)}")
    public = any(value is kind for value in vars(toolkit.api).values())
    if kind in FOREIGN:
        more = ""
    elif public:
        more = f"Its interface, for authors: [{kind.__name__}](../interfaces.md#{kind.__name__.lower()})."
    else:
        more = "\n\n".join(["## Interface", *class_parts(kind.__name__, kind)])
    return joined([f"# {title(kind)}", what(kind), "\n".join(rows), more, tree(c.name for c in found)])


def component_page(component: Component, registry: Registry) -> str:
    kind, owner = component.kind, component.owner
    plugin = f"the plugin `{owner.name}` ({owner.distribution})"
    whose = "the core" if owner.name == "toolkit" else plugin
    a = "an" if title(kind)[0] in "AEIOU" else "a"
    supplied = ", ".join(f"`{parameter.name}`" for parameter in component.signature.supplied)
    return joined([
        f"# {component.name}", described(component.factory, but=("Args",)),
        f'`type = "{component.name}"` is {a} [{title(kind)}](index.md) of {whose}: '
        f"`{component.factory.__module__}.{component.factory.__qualname__}`."
        + (f" The toolkit supplies {supplied}." if supplied else ""),
        "## Options", listed(component.options, links(registry, "../")) or "It has none.",
        common_options(kind),
        *example_part(component, registry),
    ])  # fmt: skip


def common_options(kind: type) -> str:
    """A link to the options that every table of the section has."""
    section = next((section for section in SECTIONS if section.interface is kind and section.common), None)
    return f"And [those of every `{section.header}`](../options.md)." if section else ""


def example_part(component: Component, registry: Registry) -> list[str]:
    example = example_of(component, registry)
    if example is not None:
        whence = f"As in the recipe `{example.recipe}`:" if example.recipe else ""
        return ["## Example", whence, f"```toml\n{example.text}```"]
    command = next((text for kind, text in COMMANDS.items() if component.kind is kind), "")
    needed = " ".join(
        f"--set features.{option.name}=..." for option in component.options
        if option.required and component.kind is FeatureExtractor
    )  # fmt: skip
    line = f"{command.format(name=component.name)} {needed}".strip()
    return ["## Example", f"```bash\n{line}\n```"] if line else []


def options_page(registry: Registry) -> str:
    """The tables of a recipe that belong to no component."""
    parts = [
        "# Options of every recipe",
        "Where a section names a component, these come besides its options.",
    ]
    for section in SECTIONS:
        for target in filter(None, (section.common_options, section.interface)):
            if inspect.isclass(target) and hasattr(target, "__dataclass_fields__"):
                options = read_signature(target, supplied=()).options
                parts += [f"## `{section.header}`", summary(target), listed(options, links(registry, ""))]
    return joined(parts)


def commands_page() -> str:
    """What every command prints with --help."""
    parts = ["# Commands", "As `toolkit COMMAND --help` prints it."]
    parts += help_of(main, click.Context(main, info_name="toolkit"))
    return joined(parts)


def help_of(command: click.Command, context: click.Context) -> list[str]:
    """The help of a command, and of the commands of a group, those of plugins too."""
    context.terminal_width = context.max_content_width = 86
    parts = [f"## {context.command_path}", f"```text\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            _, inner, _ = command.resolve_command(context, [name])  # imports a plugin's command
            assert inner is not None
            parts += help_of(inner, click.Context(inner, info_name=name, parent=context))
    return parts


def interfaces() -> list[str]:
    """Public classes that a component implements: all that are abstract, in the order of docs/plugins.md."""
    public = {name: getattr(toolkit, name) for name in toolkit.api.__all__}
    return [name for name, thing in public.items() if inspect.isclass(thing) and inspect.isabstract(thing)]


def authors_names() -> list[str]:
    return [name for name in toolkit.api.__all__ if name not in {*SCRIPTS, *interfaces()}]


def interfaces_page() -> str:
    intro = "What components implement: `toolkit.NAME`. [How to add one](../plugins.md)."
    return python_page("Interfaces", intro, toolkit, interfaces())


def testing_page() -> str:
    """`toolkit.testing`: its names, and every check of every kind."""
    parts = [
        python_page(
            "toolkit.testing",
            "Does a component [keep its promises](../plugins.md#does-it-keep-its-promises)?",
            toolkit.testing, [name for name in toolkit.testing.__all__ if name != "CHECKS"],
        ),
        "## Checks by kind",
    ]  # fmt: skip
    for kind, checks in toolkit.testing.CHECKS.items():
        parts.append(f"### {title(kind)}")
        parts.append("\n".join(f"- `{check.__name__}`: {summary(check)}" for check in checks))
    return joined(parts)


def python_page(heading: str, intro: str, module: ModuleType, names: Iterable[str]) -> str:
    """Public classes and functions with their docstrings; values and types are listed by name."""
    parts, plain = [f"# {heading}", intro], []
    for name in names:
        thing = getattr(module, name)
        if inspect.isclass(thing) and thing.__module__.startswith("toolkit"):
            parts += [f"## {name}", *class_parts(name, thing)]
        elif inspect.isroutine(thing):
            parts += [f"## {name}", signature(name, thing), described(thing)]
        else:
            plain.append(name)
    if plain:
        parts += ["## Types and values", "\n".join(f"- `{name}`" for name in plain)]
    return joined(parts)


def class_parts(name: str, thing: type) -> list[str]:
    """A class with what it states itself, and nothing of what it inherits."""
    shown = signature(name, thing)
    parts = [shown if "()" not in shown else "", described(thing), attributes(thing)]
    for method, member in vars(thing).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if not inspect.isfunction(function) or not function.__doc__:
            continue
        if method.startswith("_") and method != "__call__":
            continue
        shown = "A property." if isinstance(member, property) else signature(method, function)
        abstract = "Has to be implemented." if getattr(member, "__isabstractmethod__", False) else ""
        parts += [f"### {name}.{escaped(method)}", shown, abstract, described(function)]
    return parts
