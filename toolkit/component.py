"""A component: a class or function that a plugin adds under a name, with what its signature says."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from toolkit.errors import PluginError
from toolkit.installed import Owner
from toolkit.signature import Option, Signature, SignatureError, read_signature


@dataclass(frozen=True)
class Component:
    """What a table can choose by `type = "name"`; with an `error`, the name cannot be used."""

    name: str
    kind: type
    interface: type
    factory: Callable[..., Any]
    owner: Owner
    signature: Signature
    error: str | None = None

    @property
    def options(self) -> tuple[Option, ...]:
        return self.signature.options

    def disabled(self, error: str | None) -> "Component":
        """The same with another reason why it cannot be used."""
        return self if error == self.error else replace(self, error=error)


def describe(kind: type, interface: type, name: str, factory: Callable[..., Any], owner: Owner) -> Component:
    """The component as its signature describes it, or with the error that it has.

    Raises:
        PluginError: if the name is not in lower_snake_case.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise PluginError(f"the name of a component must be in lower_snake_case, not {name!r}")
    try:
        _check(interface, factory)
        signature, error = read_signature(factory, interface=interface), None
    except SignatureError as problem:
        signature, error = Signature(), str(problem)
    return Component(name, kind, interface, factory, owner, signature, error)


def _check(interface: type, factory: Callable[..., Any]) -> None:
    returned: Any = factory
    if inspect.isfunction(factory):
        try:
            returned = inspect.signature(factory, eval_str=True).return_annotation
        except Exception as error:  # whatever evaluating its text may raise
            raise SignatureError(f"its return type cannot be read: {error}") from error
    elif not inspect.isclass(factory):
        raise SignatureError("it is neither a class nor a function")
    elif inspect.isabstract(factory):
        missing = ", ".join(sorted(vars(factory)["__abstractmethods__"]))
        raise SignatureError(f"it is abstract: {missing} is missing")
    if not inspect.isclass(returned) or not issubclass(returned, interface):
        what = "returns" if inspect.isfunction(factory) else "is"
        raise SignatureError(f"it {what} no {interface.__qualname__}")
