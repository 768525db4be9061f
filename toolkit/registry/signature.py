"""The constructor's signature is the schema of a table: options, types, limits, defaults, descriptions.

An option is a bool, int, float, str, Path, Literal or Enum, a list, tuple or dict[str, ...] of these, a union
of these, or a nested table: an interface, `list[Interface]` or `dict[str, Interface]`. Each may be `| None`.
"""

import dataclasses
import enum
import inspect
import sys
import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from toolkit.registry import values
from toolkit.registry.foreign import OMITTED, descriptions_in, first_sentence
from toolkit.registry.foreign import options_from as options_from

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0)]

# Constructor parameters that the toolkit supplies, by name, and what a recipe lacks if one is missing.
# They are never options.
SUPPLIED = {
    "schedule": "a [schedule]",
    "sample_shape": "the shape of samples",
    "num_classes": "data with labels",
    "params": "parameters to optimise",
    "run_steps": "a run of so many steps",
}
REQUIRED = inspect.Parameter.empty

OUTSIDE = "outside"
# Text by which a component reads what is elsewhere: a Hub id, an address. Saved folders may have none, and no
# path out of them: a stranger's would have us read the user's files, or ask the network.
Outside = Annotated[str, OUTSIDE]

_PLAIN = (bool, int, float, str, Path)
_NONE = type(None)


class SignatureError(Exception):
    """The reason why a constructor cannot be read as a table of options."""


@dataclasses.dataclass(frozen=True)
class Default:
    """The component that a nested table has by default: `Annotated[TimestepSampler, Default("uniform")]`."""

    type: str


@dataclasses.dataclass(frozen=True)
class Option:
    """One key of a table.

    Attributes:
        annotation: its type with its limits, for pydantic; for a nested table the interface.
        default: as a resolved recipe has it, or REQUIRED; for a nested table a table.
        optional: whether it may be None, which a recipe writes as "none".
        nested: the interface whose components it takes; None for a plain value.
        many: `list` or `dict` if it takes several components.
        plain: the type of a plain value that it takes instead of a table (`float | ScalarSchedule`).
        outside: whether it is `Outside`.
    """

    name: str
    annotation: Any
    default: Any
    description: str = ""
    optional: bool = False
    nested: type | None = None
    many: type | None = None
    plain: Any = None
    outside: bool = False

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        if self.nested is None:
            words = values.expected(self.annotation)
        else:
            table = f"a table with a type ({self.nested.__name__})"
            several: dict[Any, str] = {list: f"a list, each {table}", dict: f"a table, each value {table}"}
            words = several.get(self.many, table)
            words = words if self.plain is None else f"{values.expected(self.plain)}, or {words}"
        return f'{words}, or "none"' if self.optional else words


@dataclasses.dataclass(frozen=True)
class Supplied:
    """A constructor parameter that the toolkit supplies.

    Attributes:
        needed: whether it has no default and may not be None.
        kind: the class that it must be an instance of, e.g. `Chain` for a component that needs a chain.
    """

    name: str
    needed: bool
    has_default: bool
    kind: type = object


@dataclasses.dataclass(frozen=True)
class Signature:
    """The parameters of a constructor: `options` from the recipe, `supplied` from the toolkit.

    Attributes:
        foreign: whether the options are those of a foreign constructor, which may raise anything.
        omitted: parameters of a foreign constructor that the component sets itself.
    """

    doc: str = ""
    options: tuple[Option, ...] = ()
    supplied: tuple[Supplied, ...] = ()
    foreign: bool = False
    omitted: frozenset[str] = frozenset()


def read_signature(
    factory: Callable[..., Any], *, interface: type = object, supplied: Collection[str] = SUPPLIED
) -> Signature:
    """Read the options of a class or function.

    A class that inherits its constructor from `interface` or above has no options.

    Raises:
        SignatureError: if a parameter cannot be an option, with the parameter and the reason.
    """
    doc = first_sentence(factory.__doc__)
    constructor = _constructor(factory, interface)
    if constructor is None:
        return Signature(doc)
    descriptions = descriptions_in(factory.__doc__) | descriptions_in(constructor.__doc__)
    options, from_core = [], []
    for name, parameter in _parameters(factory, constructor).items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SignatureError(f"the parameter {parameter} has no name of its own: name each option")
        if name == "type":
            raise SignatureError("no parameter may be called 'type': that names the component in a recipe")
        if parameter.annotation is REQUIRED and name not in supplied:
            raise SignatureError(f"the parameter {name!r} has no type")
        annotation = _evaluated(parameter, factory, constructor)
        if name in supplied:
            has_default = parameter.default is not REQUIRED
            needed = not has_default and _NONE not in get_args(annotation)
            bare = _without_none(annotation)[0]
            kind = bare if inspect.isclass(bare) else object
            from_core.append(Supplied(name, needed, has_default, kind))
        else:
            options.append(_option(name, annotation, parameter.default, descriptions.get(name, "")))
    omitted = vars(inspect.unwrap(constructor)).get(OMITTED)
    return Signature(doc, tuple(options), tuple(from_core), omitted is not None, omitted or frozenset())


def _constructor(factory: Callable[..., Any], interface: type) -> Any:
    if not inspect.isclass(factory):
        return factory
    owner = next(base for base in factory.__mro__ if "__init__" in vars(base))
    inherited = owner is not factory and (owner is object or owner in interface.__mro__)
    return None if inherited or owner is object else vars(owner)["__init__"]


def _parameters(factory: Callable[..., Any], constructor: Any) -> dict[str, inspect.Parameter]:
    """The parameters without `self`; a dataclass's default factories are called."""
    parameters = dict(inspect.signature(constructor).parameters)
    if inspect.isclass(factory):
        del parameters[next(iter(parameters))]
    if dataclasses.is_dataclass(factory):
        for field in dataclasses.fields(factory):
            if field.init and field.default_factory is not dataclasses.MISSING:
                parameters[field.name] = parameters[field.name].replace(default=field.default_factory())
    return parameters


def _evaluated(parameter: inspect.Parameter, factory: Callable[..., Any], constructor: Any) -> Any:
    """The annotation; text (`from __future__ import annotations`) is evaluated in its own module."""
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    names = inspect.unwrap(constructor).__globals__
    for base in inspect.getmro(factory) if inspect.isclass(factory) else ():
        if dataclasses.is_dataclass(base) and parameter.name in inspect.get_annotations(base):
            names = vars(sys.modules[base.__module__])
            break
    try:
        return eval(parameter.annotation, names)
    except Exception as error:
        raise SignatureError(
            f"the type {parameter.annotation!r} of {parameter.name!r} cannot be read ({error}): "
            "what it names must be imported at run time, not under TYPE_CHECKING"
        ) from error


def _option(name: str, annotation: Any, default: Any, description: str) -> Option:
    preset = None
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        preset = next((item for item in metadata if type(item) is Default), None)
        annotated = next((item.description for item in metadata if type(item) is FieldInfo), None)
        description = description or annotated or ""
        annotation = inner if preset else annotation
    bare, optional = _without_none(annotation)
    plain, bare = _plain_part(bare)
    many = get_origin(bare) if get_origin(bare) in (list, dict) else None
    nested = get_args(bare)[-1] if many else bare
    if not is_plain(bare) and inspect.isclass(nested) and not is_plain(nested):
        if plain is not None and isinstance(default, (int, float)):
            start: Any = default
        else:
            start = _nested_default(name, default, preset, optional, many)
        return Option(name, annotation, start, description, optional, nested, many, plain)
    if preset is not None or not is_plain(bare):
        text = inspect.formatannotation(annotation)
        raise SignatureError(f"the type of {name!r}, {text}, is not one that an option can have")
    outside = get_origin(bare) is Annotated and OUTSIDE in get_args(bare)
    option = Option(name, bare, default, description, optional, outside=outside)
    if default is REQUIRED or (default is None and optional):
        return option
    try:
        plain = values.plain(values.parse(bare, values.plain(default)))
    except (values.Mismatch, TypeError) as error:
        raise SignatureError(f"the default {default!r} of {name!r} is not {option.expected}") from error
    return dataclasses.replace(option, default=plain)


def _nested_default(name: str, default: Any, preset: Default | None, optional: bool, many: Any) -> Any:
    if preset is not None:
        return {"type": preset.type}
    if default is REQUIRED or (default is None and optional):
        return default
    if many and not default:
        return many()
    raise SignatureError(f'the default of {name!r} must be given as Annotated[..., Default("name")]')


def _plain_part(annotation: Any) -> tuple[Any, Any]:
    """The plain part of a type such as `float | ScalarSchedule`, and the interface; (None, it) of others."""
    args = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    plain = tuple(arg for arg in args if is_plain(arg))
    rest = [arg for arg in args if not is_plain(arg)]
    if not plain or len(rest) != 1:
        return None, annotation
    return Union[plain], rest[0]  # noqa: UP007


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotation without `| None`, and whether there was one, also inside Annotated."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        bare, optional = _without_none(inner)
        return Annotated[bare, *metadata], optional
    if get_origin(annotation) in (Union, types.UnionType):
        rest = tuple(arg for arg in get_args(annotation) if arg is not _NONE)
        return Union[rest], len(rest) < len(get_args(annotation))  # noqa: UP007
    return annotation, False


def is_plain(annotation: Any) -> bool:
    """Whether values of this type can stand in a recipe as they are."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_plain(args[0])
    if origin is Literal:
        return all(type(value) in (str, int, bool) for value in args)
    if origin is dict:
        return args[0] is str and is_plain(args[1])
    if origin in (list, tuple, Union, types.UnionType):
        return bool(args) and all(is_plain(arg) for arg in args if arg is not ...)
    return annotation in _PLAIN or (inspect.isclass(annotation) and issubclass(annotation, enum.Enum))
