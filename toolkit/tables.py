"""Tables against signatures: fill in what they leave out, say what is wrong, build what they describe."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Protocol

from toolkit import values
from toolkit.component import Component
from toolkit.errors import DataError, PluginError, Problem, RecipeError, nearest
from toolkit.recipe.toml import printable
from toolkit.signature import REQUIRED, Option, Signature, read_signature

Path = tuple[str, ...]
Where = Callable[[Path], str]

_NEEDED = {
    "schedule": "a [schedule]",
    "num_classes": "data with labels",
    "image_shape": "the shape of images",
    "sample_shape": "the shape of samples",
    "params": "parameters to optimise",
}
# How torch says that there can be no such tensor; it has an exception of its own only on accelerators.
_TOO_LARGE = re.compile("allocate memory|out of memory|overflow", re.IGNORECASE)


class Catalogue(Protocol):
    """Where components are looked up."""

    def component(self, interface: type, name: str) -> Component: ...

    def components(self, interface: type) -> Mapping[str, Component]: ...


@dataclass(frozen=True)
class Completion:
    """Fills tables in, and collects all that is wrong with them in `problems`.

    A table is of an interface, and then chooses a component by its `type`, or of a dataclass of options.
    """

    catalogue: Catalogue
    problems: list[Problem] = field(default_factory=list)

    def complete(
        self,
        target: type,
        table: Any,
        path: Path = (),
        *,
        common: type | None = None,
        preset: str | None = None,
    ) -> dict[str, Any]:
        """The table with its `type` and every default, nested tables too.

        `common` is a dataclass whose options the table takes as well, `preset` the type that it has if it
        states none.
        """
        if not isinstance(table, dict):
            name = f"{path[-1]!r} " if path else ""
            self._complain(path, f"{name}must be a table, not {values.shown(table)}.")
            return {}
        if is_dataclass(target):
            signature, complete, whose = read_signature(target, supplied=()), {}, "the table"
        else:
            component = self._chosen(target, table, path, preset)
            if component is None:
                return {}
            signature, complete, whose = component.signature, {"type": component.name}, repr(component.name)
        options = {option.name: option for option in signature.options}
        for option in read_signature(common, supplied=()).options if common else ():
            if option.name in options:
                text = f"{whose} has an option {option.name!r} of its own, but every table here has one."
                self._complain(path, text)
            options[option.name] = option
        for key in table:
            if key not in options and key not in complete:
                self.problems.append(_unknown(key, (*path, key), signature, options, whose))
        for option in options.values():
            value = table.get(option.name, option.default)
            if value is REQUIRED:
                self._complain(path, f"{whose} needs {option.name!r}: {option.expected}.")
            else:
                complete[option.name] = self._value(option, value, (*path, option.name))
        return complete

    def _complain(self, path: Path, text: str) -> None:
        self.problems.append(Problem(path, text))

    def _chosen(
        self, target: type, table: dict[str, Any], path: Path, preset: str | None
    ) -> Component | None:
        name = table.get("type", preset)
        if not isinstance(name, str):
            names = ", ".join(map(repr, self.catalogue.components(target)))
            self._complain(path, f"needs a type, one of: {names or 'none is installed'}.")
            return None
        try:
            return self.catalogue.component(target, name)
        except PluginError as error:
            at = (*path, "type") if "type" in table else path
            self.problems.append(Problem(at, str(error), uninstalled=True))
            return None

    def _value(self, option: Option, value: Any, path: Path) -> Any:
        if option.optional and (value is None or value == "none"):
            return None
        if option.nested is None:
            try:
                return values.plain(values.parse(option.annotation, value))
            except values.Mismatch as mismatch:
                self._complain(path, f"{option.name!r} must be {option.expected}, {mismatch}")
                return None
        if option.many is None:
            preset = option.default["type"] if isinstance(option.default, dict) else None
            return self.complete(option.nested, value, path, preset=preset)
        if option.many is list and isinstance(value, list):
            return [self.complete(option.nested, table, (*path, str(i))) for i, table in enumerate(value)]
        if option.many is dict and isinstance(value, dict):
            return {key: self.complete(option.nested, table, (*path, key)) for key, table in value.items()}
        self._complain(path, f"{option.name!r} must be {option.expected}, not {values.shown(value)}")
        return None


def _unknown(
    key: str, path: Path, signature: Signature, options: Mapping[str, Option], whose: str
) -> Problem:
    """A key that is no option, told apart from one that is not the recipe's to give."""
    if key in signature.omitted:
        return Problem(path, f"{key!r} is no option of {whose}, which sets it itself.")
    if any(key == parameter.name for parameter in signature.supplied):
        return Problem(path, f"{key!r} is no option of {whose}: the toolkit supplies it.")
    listed = f" Its options: {', '.join(map(repr, options))}." if options else " It has none."
    hint = nearest(key, options) or listed
    return Problem(path, f"{whose} has no option '{printable(key)}'.", hint, unknown=key)


@dataclass(frozen=True)
class Construction:
    """Builds what complete tables describe: nested components first, each with what it asks for by name."""

    catalogue: Catalogue
    supplied: Mapping[str, object]
    where: Where

    def build(self, target: type, table: dict[str, Any], path: Path = ()) -> Any:
        """The object of a complete table.

        Raises:
            RecipeError: if something that the constructor needs is not supplied, or it raises ValueError,
                which is how a constructor refuses a combination of options.
        """
        if is_dataclass(target):
            factory: Callable[..., Any] = target
            signature = read_signature(target, supplied=())
        else:
            component = self.catalogue.component(target, table["type"])
            factory, signature = component.factory, component.signature
        arguments = {o.name: self._argument(o, table[o.name], (*path, o.name)) for o in signature.options}
        for parameter in signature.supplied:
            value = self.supplied.get(parameter.name)
            if value is None and parameter.needed:
                raise RecipeError(f"{self.where(path)} {table['type']!r} needs {_NEEDED[parameter.name]}.")
            if value is not None or not parameter.has_default:
                arguments[parameter.name] = value
        try:
            return factory(**arguments)
        except ValueError as error:
            raise RecipeError(f"{self.where(path)} {' '.join(str(error).split())}") from error
        except DataError as error:
            raise DataError(f"{self.where(path)} {error}") from error
        except OSError as error:  # a path that the system refuses: too long, or not ours to read
            raise RecipeError(f"{self.where(path)} cannot be read: {error.strerror or error}.") from error
        except (MemoryError, OverflowError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _TOO_LARGE.search(str(error)):
                raise
            raise RecipeError(f"{self.where(path)} asks for more than there is memory for.") from error

    def _argument(self, option: Option, value: Any, path: Path) -> Any:
        nested = option.nested
        if value is None:
            return None
        if nested is None:
            return values.parse(option.annotation, value)
        if option.many is list:
            return [self.build(nested, table, (*path, str(i))) for i, table in enumerate(value)]
        if option.many is dict:
            return {key: self.build(nested, table, (*path, key)) for key, table in value.items()}
        return self.build(nested, value, path)
