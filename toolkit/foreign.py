"""Options of somebody else's constructor, read from its source without importing it.

Importing diffusers takes seconds, and listing a component's options must not.
"""

import ast
import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from toolkit.docstrings import descriptions_in

OMITTED = "toolkit_omitted"  # the attribute that tells an omitted option from a misspelt one

_Component = TypeVar("_Component", bound=Callable[..., Any])


def options_from(target: str, omit: Iterable[str] = ()) -> Callable[[_Component], _Component]:
    """Give the `**options` of a class or function the names, types and defaults of a foreign class's.

        @options_from("diffusers.models.unets.unet_2d:UNet2DModel", omit=("in_channels", "out_channels"))
        class UNet(Denoiser):
            def __init__(self, sample_shape: tuple[int, ...], **unet: Any) -> None: ...

    `omit` names the foreign parameters that the component sets itself.

    Raises:
        ValueError: if the source has no such class, or `omit` a name that it does not take.
    """

    def decorate(component: _Component) -> _Component:
        constructor = vars(component)["__init__"] if inspect.isclass(component) else component
        own = inspect.signature(constructor)
        *stated, rest = own.parameters.values()
        if rest.kind is not rest.VAR_KEYWORD:
            raise ValueError("options_from needs a constructor that ends in **options")
        foreign = _read(target)
        unknown = sorted(set(omit) - set(foreign))
        if unknown:
            raise ValueError(f"{target} has no parameter {unknown[0]!r} to omit")
        taken = {*omit, *own.parameters}
        added = [parameter for name, parameter in foreign.items() if name not in taken]
        # `inspect.signature` believes this attribute, so whoever reads the options needs no special case.
        vars(constructor)["__signature__"] = own.replace(parameters=[*stated, *added])
        vars(constructor)[OMITTED] = frozenset(omit)
        return component

    return decorate


def _read(target: str) -> dict[str, inspect.Parameter]:
    module, _, name = target.partition(":")
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    descriptions = descriptions_in(ast.get_docstring(node))
                    return {p.name: p for p in _parameters(method.args, descriptions)}
    raise ValueError(f"{_source(module)} has no class {name!r} with a constructor")


def _source(module: str) -> Path:
    """The module's file. Only the outermost package is looked up: looking further would import it."""
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package!r} is not installed")
    return Path(spec.submodule_search_locations[0], *inner).with_suffix(".py")


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
