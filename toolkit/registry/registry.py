"""Components by name: plugins add them, and tables of a recipe choose among them."""

import inspect
import pathlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from toolkit.errors import PROBLEMS, PluginError, Problem, RecipeError, nearest, printable
from toolkit.registry.discover import Owner
from toolkit.registry.signature import Option, Signature, SignatureError, read_signature
from toolkit.registry.tables import Completion, Path, Table, Where


@dataclass(frozen=True)
class Component:
    """A class or function that a table can choose by `type = "name"`.

    Attributes:
        kind: the interface under which it is filed.
        interface: the interface that it was added for: the kind, or a subclass of it.
        factory: the class or function that builds it.
        owner: the plugin that added it.
        signature: the options that it takes.
        error: why the name cannot be used; None if it can.
    """

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


def describe(kind: type, interface: type, name: str, factory: Callable[..., Any], owner: Owner) -> Component:
    """Read a component's signature; if that fails, its `error` says why.

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
        what = "its return type" if inspect.isfunction(factory) else "it"
        raise SignatureError(f"{what} is not a subclass of {interface.__qualname__}")


def _a(interface: type) -> str:
    name = interface.__name__
    return f"an {name}" if re.match("[AEIO]|[LMN][A-Z]", name) else f"a {name}"


def bracketed(path: Path) -> str:
    """The place of a table that came from no file: `[objective.timesteps]`."""
    return f"[{'.'.join(path)}]"


class Registry:
    """Components by kind and name. A kind is an interface class.

    A component is filed under the nearest kind among the bases of its interface; an interface without such a
    base becomes a kind itself when a component is first added for it.

    Attributes:
        failures: plugins that could not be loaded, and why.
        switched_off: names of plugins that are installed but not loaded.
    """

    def __init__(self) -> None:
        self.failures: dict[Owner, str] = {}
        self.switched_off: tuple[str, ...] = ()
        self._kinds: list[type] = []
        self._added: list[Component] = []
        self._owner = Owner("toolkit")
        self._checked: tuple[Component, ...] | None = None  # `added()`, until something changes

    def copy(self) -> "Registry":
        """An independent registry, to which more can be added; that of `load` is shared by the process."""
        other = Registry()
        other.failures, other.switched_off = dict(self.failures), self.switched_off
        other._kinds, other._added = self._kinds[:], self._added[:]
        return other

    @contextmanager
    def owned_by(self, owner: Owner) -> Iterator[None]:
        """Give `owner` whatever is added inside; undo it if something is raised."""
        before, kinds, added = self._owner, self._kinds[:], self._added[:]
        self._owner = owner
        try:
            yield
        except BaseException:
            self._kinds, self._added, self._checked = kinds, added, None
            raise
        finally:
            self._owner = before

    def declare(self, *kinds: type) -> None:
        """Make interfaces kinds of their own, even if another kind is among their bases."""
        self._kinds += [kind for kind in kinds if kind not in self._kinds]
        self._checked = None

    def add(self, interface: type, name: str, component: Callable[..., Any]) -> None:
        """Add a class that implements `interface`, or a function that returns it, as `type = "name"`.

        A component whose signature cannot be read, or whose name is added twice, stays unusable, and says why
        when it is requested.

        Raises:
            PluginError: if the name is not in lower_snake_case.
        """
        kind = self._kind_of(interface)
        if kind is None:
            self.declare(interface)
        self._added.append(describe(kind or interface, interface, name, component, self._owner))
        self._checked = None

    def _kind_of(self, interface: type) -> type | None:
        return next((base for base in interface.__mro__ if base in self._kinds), None)

    def kinds(self) -> tuple[type, ...]:
        """All kinds, in the order in which they were added."""
        return tuple(self._kinds)

    def added(self) -> tuple[Component, ...]:
        """All components, usable or not, in the order in which they were added."""
        if self._checked is None:
            owners = defaultdict(list)
            for component in self._added:
                owners[component.kind, component.name].append(str(component.owner))
            self._checked = tuple(
                replace(component, error=self._fault(component, owners[component.kind, component.name]))
                for component in self._added
            )
        return self._checked

    def _fault(self, component: Component, owners: list[str]) -> str | None:
        if component.error is None and len(owners) > 1:
            return f"the name was added more than once, by {' and by '.join(owners)}"
        for option in component.signature.options:
            if option.nested is not None and self._kind_of(option.nested) is None:
                return (
                    f"the type of {option.name!r}, {option.nested.__qualname__}, is neither plain nor a kind"
                )
        return component.error

    def components(self, interface: type) -> Mapping[str, Component]:
        """The usable components that implement an interface, by name."""
        named = self._named(interface)
        return {name: named[name] for name in sorted(named) if named[name].error is None}

    def _named(self, interface: type) -> dict[str, Component]:
        kind = self._kind_of(interface)
        return {c.name: c for c in self.added() if c.kind is kind and issubclass(c.interface, interface)}

    def component(self, interface: type, name: str) -> Component:
        """Look a component up.

        Raises:
            PluginError: if there is none, with the nearest name, or if it cannot be used, with the reason.
        """
        named = self._named(interface)
        if name not in named:
            raise PluginError(self._unknown(interface, name, named))
        component = named[name]
        if component.error is not None:
            raise PluginError(f"type {name!r} of {component.owner} cannot be used: {component.error}.")
        return component

    def _unknown(self, interface: type, name: str, named: Mapping[str, Component]) -> str:
        """Why there is no such component: another kind's, of a broken or absent plugin, or a misspelling."""
        label = f"type '{printable(name)}'"
        elsewhere = [c for c in self.added() if c.name == name and c.error is None]
        if elsewhere:
            what = " and ".join(dict.fromkeys(_a(c.interface) for c in elsewhere))
            return f"{label} is {what}, not {_a(interface)}.{self._listed(named)}"
        if name in self.switched_off:
            return f"{label} is not installed: the plugin {name!r} is switched off."
        off = f" Switched off: {', '.join(self.switched_off)}." if self.switched_off else ""
        usable = [name for name, component in named.items() if component.error is None]
        return f"{label} is not installed.{nearest(name, usable) or self._listed(named)}{off}"

    def _listed(self, named: Mapping[str, Component]) -> str:
        usable = sorted(name for name, component in named.items() if component.error is None)
        return f" Installed: {', '.join(map(repr, usable))}." if usable else " None is installed."

    def broken(self) -> list[str]:
        """A line for each plugin that could not be loaded: why a component may be missing."""
        return [f"{owner} could not be loaded: {reason}" for owner, reason in self.failures.items()]

    def lines(self, problems: Sequence[Problem], line: Callable[[Problem], str]) -> list[str]:
        """A line for each of the first problems, after what may be their cause, and a count of the others."""
        causes = self.broken() if any(problem.uninstalled for problem in problems) else []
        more = len(problems) - PROBLEMS
        rest = [f"and {more:,} more problems."] if more > 0 else []
        return [*causes, *map(line, problems[:PROBLEMS]), *rest]

    def complete(
        self,
        target: type,
        table: Any,
        where: Where = bracketed,
        *,
        common: type | None = None,
        home: pathlib.Path | None = None,
    ) -> Table:
        """Fill in a table: its `type` and every default, in nested tables too, ready to be built.

        `target` is an interface, of which the table chooses a component, or a dataclass of plain options.
        `common` is a dataclass whose options the table takes as well. `home` is the saved folder that it is
        from: its paths are relative to that, and none may lead out of it.

        Raises:
            RecipeError: with one line for each problem.
        """
        completion = Completion(self, home=home)
        complete = completion.complete(target, table, common=common)
        if completion.problems:
            lines = self.lines(completion.problems, lambda p: f"{where(p.path)} {p.text}{p.hint()}")
            raise RecipeError("\n".join(lines))
        return complete

    def resolve(self, target: type, table: Any, where: Where = bracketed) -> dict[str, Any]:
        """The complete table as JSON values; see `complete`.

        Raises:
            RecipeError: with one line for each problem.
        """
        return self.complete(target, table, where).plain

    def create(self, target: type, table: Any, *, supplied: Mapping[str, object], where: Where) -> Any:
        """Build the object that a table describes; constructors get the values of `supplied` that they name.

        Raises:
            RecipeError: if the table is wrong, if something that a constructor needs is not supplied, or if a
                constructor refuses its options.
        """
        return self.complete(target, table, where).build(supplied, where)
