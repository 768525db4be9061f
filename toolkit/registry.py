"""Names to components: what plugins add, and what a table of a recipe may choose."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from toolkit.component import Component, describe
from toolkit.errors import PluginError, RecipeError, nearest
from toolkit.installed import Owner
from toolkit.recipe.toml import printable
from toolkit.tables import Completion, Construction, Path, Where


def bracketed(path: Path) -> str:
    """Where a table is that came from no file: `[objective.timesteps]`."""
    return f"[{'.'.join(path)}]"


class Registry:
    """Components by kind and name. A kind is its interface class.

    A component is filed under the nearest kind in the bases of its interface; an interface that has none
    above it becomes a kind when something is first added to it. `beyond` gives the registry that there would
    be if no plugin were switched off.
    """

    def __init__(self, beyond: "Callable[[], Registry] | None" = None) -> None:
        self.failures: dict[Owner, str] = {}  # plugins that could not be loaded, and why
        self._beyond = beyond
        self._kinds: list[type] = []
        self._added: list[Component] = []
        self._owner = Owner("toolkit")

    @contextmanager
    def owned_by(self, owner: Owner) -> Iterator[None]:
        """Whatever is added inside belongs to `owner`; if something is raised, it is taken back."""
        before, kinds, added = self._owner, self._kinds[:], self._added[:]
        self._owner = owner
        try:
            yield
        except BaseException:
            self._kinds, self._added = kinds, added
            raise
        finally:
            self._owner = before

    def declare(self, *kinds: type) -> None:
        """Make kinds of interfaces that have another kind among their bases."""
        self._kinds += [kind for kind in kinds if kind not in self._kinds]

    def add(self, interface: type, name: str, component: Callable[..., Any]) -> None:
        """Add a class that implements `interface`, or a function that returns it, as `type = "name"`.

        A component whose signature cannot be read, and a name that is added twice, stay unusable and say why
        when they are asked for.

        Raises:
            PluginError: if the name is not in lower_snake_case.
        """
        kind = self._kind_of(interface)
        if kind is None:
            self.declare(interface)
        self._added.append(describe(kind or interface, interface, name, component, self._owner))

    def _kind_of(self, interface: type) -> type | None:
        return next((base for base in interface.__mro__ if base in self._kinds), None)

    def kinds(self) -> tuple[type, ...]:
        """All kinds, in the order in which they came."""
        return tuple(self._kinds)

    def added(self) -> tuple[Component, ...]:
        """Everything that was added; `error` says why a name cannot be used."""
        owners = defaultdict(list)
        for component in self._added:
            owners[component.kind, component.name].append(str(component.owner))
        return tuple(
            component.disabled(self._fault(component, owners[component.kind, component.name]))
            for component in self._added
        )

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
        found = self._named(interface)
        return {name: found[name] for name in sorted(found) if found[name].error is None}

    def _named(self, interface: type) -> dict[str, Component]:
        kind = self._kind_of(interface)
        return {c.name: c for c in self.added() if c.kind is kind and issubclass(c.interface, interface)}

    def component(self, interface: type, name: str) -> Component:
        """The component of that name.

        Raises:
            PluginError: if there is none, with the nearest name, or if the name cannot be used, with why.
        """
        found = self._named(interface)
        if name not in found:
            if self._beyond and (off := self._beyond()._named(interface).get(name)):
                raise PluginError(f"type {name!r} belongs to {off.owner}, which is switched off.")
            usable = [name for name, component in found.items() if component.error is None]
            listed = (
                f" Installed: {', '.join(map(repr, sorted(usable)))}." if usable else " None is installed."
            )
            raise PluginError(f"type '{printable(name)}' is not installed.{nearest(name, usable) or listed}")
        component = found[name]
        if component.error is not None:
            raise PluginError(f"type {name!r} of {component.owner} cannot be used: {component.error}.")
        return component

    def resolve(self, target: type, table: Any, where: Where = bracketed) -> dict[str, Any]:
        """The complete table: its `type` and every default, nested tables too.

        `target` is an interface, of which the table chooses a component, or a dataclass of plain options.

        Raises:
            RecipeError: with one line for each problem.
        """
        completion = Completion(self)
        complete = completion.complete(target, table)
        if completion.problems:
            raise RecipeError("\n".join(f"{where(p.path)} {p.text}{p.hint}" for p in completion.problems))
        return complete

    def create(self, target: type, table: Any, *, supplied: Mapping[str, object], where: Where) -> Any:
        """The object that a table describes, with those of `supplied` that its constructor asks for by name.

        Raises:
            RecipeError: if the table is wrong, if something that a constructor needs is not supplied, or if a
                constructor refuses its options with a ValueError.
        """
        complete = self.resolve(target, table, where)
        return Construction(self, supplied, where).build(target, complete)
