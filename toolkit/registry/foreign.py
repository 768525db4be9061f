"""Options of a third-party constructor, read from its source without importing it.

Importing diffusers takes seconds, and listing a component's options must not.
"""

import ast
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import Field

from toolkit.registry.discover import source_of

OMITTED = "toolkit_omitted"  # the attribute that distinguishes an omitted option from a misspelt one

_Component = TypeVar("_Component", bound=Callable[..., Any])


def options_from(
    target: str, omit: Iterable[str] = (), limits: Mapping[str, Any] | None = None
) -> Callable[[_Component], _Component]:
    """Give the `**options` of a class or function the names, types and defaults of a foreign class's.

        @options_from("diffusers.models.unets.unet_2d:UNet2DModel", omit=("in_channels", "out_channels"))
        class UNet(Denoiser):
            def __init__(self, sample_shape: tuple[int, ...], **unet: Any) -> None: ...

    `omit` names the foreign parameters that the component sets itself. `limits` gives others a narrower type
    than the foreign signature has, which says `int` even where only some numbers work. Limits of parameters
    that are omitted, or that the component has itself, are ignored, so that components can share them.

    Raises:
        ValueError: if the source has no such class, if `omit` or `limits` has a name that it does not take,
            or if the decorated constructor does not end in `**options`.
    """

    def decorate(component: _Component) -> _Component:
        constructor = vars(component)["__init__"] if inspect.isclass(component) else component
        own = inspect.signature(constructor)
        *named, rest = own.parameters.values()
        if rest.kind is not rest.VAR_KEYWORD:
            raise ValueError("options_from needs a constructor that ends in **options")
        foreign = _read(target)
        narrower = limits or {}
        for names, purpose in ((omit, "omit"), (narrower, "limit")):
            if unknown := sorted(set(names) - set(foreign)):
                raise ValueError(f"{target} has no parameter {unknown[0]!r} to {purpose}")
        taken = {*omit, *own.parameters}
        added = [
            _limited(parameter, narrower[name]) if name in narrower else parameter
            for name, parameter in foreign.items()
            if name not in taken
        ]
        # `inspect.signature` reads this attribute, so code that reads the options needs no special case.
        vars(constructor)["__signature__"] = own.replace(parameters=[*named, *added])
        vars(constructor)[OMITTED] = frozenset(omit)
        return component

    return decorate


def builds_foreign(component: _Component) -> _Component:
    """Mark a class or function that builds a third-party object from a user's values.

    Whatever it raises then counts as an error in these values. `options_from` sets the same mark.
    """
    constructor = vars(component)["__init__"] if inspect.isclass(component) else component
    vars(constructor)[OMITTED] = frozenset()
    return component


def _limited(parameter: inspect.Parameter, limit: Any) -> inspect.Parameter:
    """The parameter with another type; its own description comes first, because readers take the first."""
    bare, *metadata = get_args(limit) if get_origin(limit) is Annotated else (limit,)
    description = get_args(parameter.annotation)[1]
    return parameter.replace(annotation=Annotated[bare, description, *metadata])


@functools.cache  # several components take over the same constructor
def _read(target: str) -> dict[str, inspect.Parameter]:
    module, _, name = target.partition(":")
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    descriptions = descriptions_in(ast.get_docstring(node))
                    return {p.name: p for p in _parameters(method.args, descriptions)}
    raise ValueError(f"{source_of(module)} has no class {name!r} with a constructor")


def _parameters(arguments: ast.arguments, descriptions: dict[str, str]) -> typing.Iterator[inspect.Parameter]:
    names = {**vars(typing), "Path": Path}
    positional = arguments.args[1:]  # without self
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True):
        if argument.annotation is None:
            raise ValueError(f"the parameter {argument.arg!r} has no type")
        annotation = eval(ast.unparse(argument.annotation), dict(names))
        yield inspect.Parameter(
            argument.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is None else ast.literal_eval(default),
            annotation=Annotated[annotation, Field(description=descriptions.get(argument.arg, ""))],
        )


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
