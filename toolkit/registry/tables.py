"""Tables and signatures: fill in defaults, collect problems, and build the objects described."""

import copy
import pathlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Protocol

from toolkit.errors import (
    DataError,
    PluginError,
    Problem,
    RecipeError,
    ToolkitError,
    nearest,
    one_line,
    out_of_memory,
    place_of,
    printable,
)
from toolkit.registry import values
from toolkit.registry.limits import TooLarge, limited
from toolkit.registry.signature import REQUIRED, SUPPLIED, Option, Signature, read_signature

Path = tuple[str, ...]
Where = Callable[[Path], str]


class Chosen(Protocol):
    """The part of a component that its tables need."""

    @property
    def name(self) -> str: ...
    @property
    def factory(self) -> Callable[..., Any]: ...
    @property
    def signature(self) -> Signature: ...


class Catalogue(Protocol):
    """A place where components are looked up."""

    def component(self, interface: type, name: str) -> Chosen: ...

    def components(self, interface: type) -> Mapping[str, Chosen]: ...


@dataclass(frozen=True)
class Table:
    """A complete table: all its options, and the constructor that builds an object from them.

    Attributes:
        plain: the table as JSON values, with its `type`; nested tables too.
        arguments: the options as the constructor takes them: a Path for a path, a `Table` for a nested one.
    """

    plain: dict[str, Any]
    arguments: dict[str, Any]
    factory: Callable[..., Any]
    signature: Signature

    def common(self, options: type) -> "Table":
        """The part of the table that builds `options`, a dataclass that the toolkit itself reads."""
        signature = read_signature(options, supplied=())
        plain = {option.name: self.plain[option.name] for option in signature.options}
        return Table(plain, {name: self.arguments[name] for name in plain}, options, signature)

    def with_value(self, name: str, value: Any) -> "Table":
        """The table with another value of a plain option."""
        return replace(self, plain={**self.plain, name: value}, arguments={**self.arguments, name: value})

    def build(self, supplied: Mapping[str, object], where: Where, path: Path = ()) -> Any:
        """Build the object, nested ones first; constructors get the values of `supplied` that they name.

        Raises:
            RecipeError: if something that a constructor needs is not supplied, or if it raises anything:
                ValueError is how a constructor refuses a combination of options.
            ToolkitError: a constructor's own, with the place of its table in front.
        """
        arguments = {
            option.name: _built(self.arguments[option.name], supplied, where, (*path, option.name))
            for option in self.signature.options
        }
        for parameter in self.signature.supplied:
            value = supplied.get(parameter.name)
            if value is None and parameter.needed:
                needed = SUPPLIED[parameter.name]
                raise RecipeError(f"{where(path)} {self.plain['type']!r} needs {needed}.")
            if value is not None and not isinstance(value, parameter.kind):
                raise RecipeError(
                    f"{where(path)} {self.plain['type']!r} needs a {parameter.name} that is a "
                    f"{parameter.kind.__name__}, but this one is a {type(value).__name__}."
                )
            if value is not None or not parameter.has_default:
                arguments[parameter.name] = value
        try:
            with limited():
                return self.factory(**arguments)
        except Exception as error:
            raise self._refusal(error, where, path) from error

    def _refusal(self, error: Exception, where: Where, path: Path) -> ToolkitError:
        """A constructor's exception as an error in the user's table, or at the option that it names."""
        place = where(path)
        reason = " ".join(str(error).split())
        given = ", ".join(f"{name} = {values.as_text(value)}" for name, value in self._non_defaults().items())
        if isinstance(error, ToolkitError) and error.option in self.arguments:
            place = f"{where((*path, error.option))} {error.option}:"
        match error:
            case DataError():  # also its subclasses, which may take more than a message
                return DataError(f"{place} {error}")
            case ToolkitError():
                return type(error)(f"{place} {error}")
            case ValueError() if not self.signature.foreign or self._raised_here(error):
                # How a constructor refuses a combination of options, which it names; a foreign one may not.
                return RecipeError(f"{place} {reason}")
            case TooLarge():
                return RecipeError(f"{place} {reason}: {given or 'its defaults'}.")
            case OSError():  # a path that the system refuses: too long, or not ours to read
                return RecipeError(f"{place} cannot be read: {error.strerror or error}.")
            case _ if out_of_memory(error):
                return RecipeError(f"{place} needs more memory than there is: {given or 'its defaults'}.")
        built = self.plain.get("type") or getattr(self.factory, "__name__", "it")
        at = None if self.signature.foreign else place_of(error, self.factory.__module__)
        cause = one_line(error) + (f" (at {at})" if at else "")  # it may as well be a bug there
        return RecipeError(f"{place} {built!r} cannot be built from {given or 'its defaults'}: {cause}")

    def _raised_here(self, error: Exception) -> bool:
        """Whether the sentence is the component's own, or of the toolkit's functions that it calls."""
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        return package in ("toolkit", self.factory.__module__.partition(".")[0])

    def _non_defaults(self) -> dict[str, Any]:
        """The options that differ from their defaults: those that a user has chosen."""
        options = {option.name: option for option in self.signature.options}
        return {
            name: value
            for name, value in self.plain.items()
            if name in options and (options[name].required or value != options[name].default)
        }


def _built(value: Any, supplied: Mapping[str, object], where: Where, path: Path) -> Any:
    if isinstance(value, Table):
        return value.build(supplied, where, path)
    if isinstance(value, Several):
        items = [(key, table.build(supplied, where, (*path, key))) for key, table in value.tables]
        return dict(items) if value.many is dict else [item for _, item in items]
    # A constructor may keep a list and change it, but the next object needs the table as it was.
    return copy.deepcopy(value) if isinstance(value, (list, dict)) else value


@dataclass(frozen=True)
class Several:
    """The tables of an option that takes several components, by key or by index."""

    many: type
    tables: tuple[tuple[str, Table], ...]

    @property
    def plain(self) -> Any:
        items = [(key, table.plain) for key, table in self.tables]
        return dict(items) if self.many is dict else [plain for _, plain in items]


@dataclass(frozen=True)
class Completion:
    """Fills in tables, and collects everything that is wrong with them in `problems`.

    A table is for an interface, of which it chooses a component by its `type`, or for a dataclass of options.
    Those of a saved folder, `home`, may name nothing outside it.
    """

    catalogue: Catalogue
    problems: list[Problem] = field(default_factory=list)
    home: pathlib.Path | None = None

    def complete(
        self,
        target: type,
        table: Any,
        path: Path = (),
        *,
        common: type | None = None,
        preset: str | None = None,
    ) -> Table:
        """The table with its `type` and every default, in nested tables too.

        If `problems` has grown, the table is not fit for use.

        Args:
            target: an interface, or a dataclass of plain options.
            table: as the recipe has it.
            path: its place in the recipe.
            common: a dataclass whose options the table takes as well.
            preset: its type if it does not name one.
        """
        if not isinstance(table, dict):
            name = f"{path[-1]!r} " if path else ""
            self._complain(path, f"{name}must be a table, not {values.as_text(table)}.")
            return self.nothing(target)
        if is_dataclass(target):
            factory: Callable[..., Any] = target
            signature, plain, whose = read_signature(target, supplied=()), {}, "the table"
        else:
            component = self._chosen(target, table, path, preset)
            if component is None:
                return self.nothing(target)
            factory, signature = component.factory, component.signature
            plain, whose = {"type": component.name}, repr(component.name)
        options = {option.name: option for option in signature.options}
        for option in read_signature(common, supplied=()).options if common else ():
            if option.name in options:
                text = f"{whose} has an option {option.name!r} of its own, but every table here has one."
                self._complain(path, text)
            options[option.name] = option
        for key in table:
            if key not in options and key not in plain:
                self.problems.append(_unknown(key, (*path, key), signature, options, whose))
        complete = Table(plain, {}, factory, signature)
        for option in options.values():
            value = table.get(option.name, option.default)
            if value is REQUIRED:
                self._complain(path, f"{whose} needs {option.name!r}: {option.expected}.")
            else:
                plain[option.name], complete.arguments[option.name] = self._value(
                    option, value, (*path, option.name)
                )
        return complete

    @staticmethod
    def nothing(target: type) -> Table:
        """What stands for a table that cannot be read; its problem is among `problems`."""
        return Table({}, {}, target, Signature())

    def _complain(self, path: Path, text: str) -> None:
        self.problems.append(Problem(path, text))

    def _chosen(self, target: type, table: dict[str, Any], path: Path, preset: str | None) -> Chosen | None:
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

    def _value(self, option: Option, value: Any, path: Path) -> tuple[Any, Any]:
        """An option's value as JSON, and as the constructor takes it."""
        if option.optional and (value is None or value == "none"):
            return None, None
        bare = option.plain is not None and not isinstance(value, dict)
        if option.nested is None or bare:
            try:
                parsed = values.parse(option.plain if bare else option.annotation, value, self.home)
                if option.outside and self.home is not None:
                    raise values.Mismatch(
                        f"not {values.as_text(value)}, which is not inside the saved folder"
                    )
                return values.plain(parsed), parsed
            except values.Mismatch as mismatch:
                self._complain(path, f"{option.name!r} must be {option.expected}, {mismatch}")
                return None, None
        if option.many is None:
            preset = option.default["type"] if isinstance(option.default, dict) else None
            inner = self.complete(option.nested, value, path, preset=preset)
            return inner.plain, inner
        if isinstance(value, option.many) and isinstance(value, (list, dict)):
            items = value.items() if isinstance(value, dict) else ((str(i), v) for i, v in enumerate(value))
            tables = ((key, self.complete(option.nested, one, (*path, key))) for key, one in items)
            several = Several(option.many, tuple(tables))
            return several.plain, several
        self._complain(path, f"{option.name!r} must be {option.expected}, not {values.as_text(value)}")
        return None, None


def _unknown(
    key: str, path: Path, signature: Signature, options: Mapping[str, Option], whose: str
) -> Problem:
    """The problem with an unknown key, or with one that a recipe may not set."""
    if key in signature.omitted:
        return Problem(path, f"{key!r} is not an option of {whose}, which sets it itself.")
    if any(key == parameter.name for parameter in signature.supplied):
        return Problem(path, f"{key!r} is not an option of {whose}: the toolkit supplies it.")

    def hint() -> str:
        listed = f" Its options: {', '.join(map(repr, options))}." if options else " It has none."
        return nearest(key, options) or listed

    return Problem(path, f"{whose} has no option '{printable(key)}'.", hint, unknown=key)
