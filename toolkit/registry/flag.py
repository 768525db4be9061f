"""A value as it was typed at the command line."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FlagValue:
    """The right side of `--set a.b=c`, as text and as a TOML value: the option's type decides."""

    text: str
    value: Any
