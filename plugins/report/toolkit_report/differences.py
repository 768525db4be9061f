"""Differences between tables, key by key: recipes of runs, protocols of scores."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDEST = 100  # characters of a value that are shown


class _Absent:
    """Stands for a key that a table lacks; `None` is a value."""

    def __repr__(self) -> str:
        return "–"


ABSENT = _Absent()


@dataclass(frozen=True)
class Difference:
    """A dotted key, and its value in each table, `ABSENT` where there is none."""

    key: str
    values: tuple[Any, ...]

    @property
    def lacking(self) -> bool:
        """Whether it is a single value that some tables lack and the others have in common.

        Mostly it is an option of another `type`, and that difference is listed itself.
        """
        present = [value for value in self.values if value is not ABSENT]
        return all(value == present[0] for value in present) and not isinstance(present[0], Mapping)

    def texts(self) -> tuple[str, ...]:
        return tuple(map(show, self.values))


def differences(tables: Sequence[Any], ignored: Sequence[str] = (), key: str = "") -> Iterator[Difference]:
    """The keys at which tables differ, in the order of the first table that has them.

    A table that only some have, all the same, is one difference and not one for each of its keys.
    """
    present = [table for table in tables if table is not ABSENT]
    if key in ignored or (len(present) == len(tables) and all(table == present[0] for table in present)):
        return
    alike = all(table == present[0] for table in present)
    if alike or not all(isinstance(table, Mapping) for table in present):
        yield Difference(key, tuple(tables))
        return
    for name in dict.fromkeys(name for table in present for name in table):
        inner = [ABSENT if table is ABSENT else table.get(name, ABSENT) for table in tables]
        yield from differences(inner, ignored, f"{key}.{name}" if key else name)


def show(value: Any) -> str:
    """A value as text; tables as `key=value`, and long text is cut."""
    if isinstance(value, Mapping):
        inner = (
            f"{name}={{{show(v)}}}" if isinstance(v, Mapping) else f"{name}={show(v)}"
            for name, v in value.items()
        )
        text = " ".join(inner)
    elif isinstance(value, str):
        text = f"{value[:8]}…" if re.fullmatch("[0-9a-f]{40,}", value) else value  # a hash
    else:
        text = repr(value) if value is ABSENT else json.dumps(value, default=str)  # TOML has dates
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
