"""A new plugin: an installable package with a method that works, to be replaced by yours."""

import importlib.util
import keyword
import re
from pathlib import Path

from toolkit.commands import NONE, PluginError, compatible, discover

# Its files end in .txt, so that no tool takes them for ours.
TEMPLATE = Path(__file__).parent / "templates" / "plugin"


def write_plugin(name: str, parent: Path) -> Path:
    """Write the package `toolkit-<name>` into the folder `parent`; returns its own folder.

    Raises:
        PluginError: if the name is not in lower_snake_case or is taken, or if the folder exists already.
    """
    _check(name)
    words = {
        "name": name,
        "package": f"toolkit_{name}",
        "distribution": f"toolkit-{name.replace('_', '-')}",
        "class": "".join(part.capitalize() for part in name.split("_")) + "Objective",
        "compatible": compatible(),
    }
    folder = parent / words["distribution"]
    try:
        folder.mkdir(parents=True)
        for source in sorted(TEMPLATE.rglob("*.txt")):
            target = folder / _fill(source.relative_to(TEMPLATE).as_posix().removesuffix(".txt"), words)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_fill(source.read_text(encoding="utf-8"), words), encoding="utf-8")
    except FileExistsError:
        raise PluginError(f"{folder} exists already, and nothing is overwritten") from None
    except OSError as error:
        raise PluginError(f"{folder} cannot be written: {error.strerror}") from None
    return folder


def _fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", name).strip("_0123456789").lower()
        hint = f" Did you mean {snake!r}?" if snake else ""
        raise PluginError(f"the name of a plugin must be in lower_snake_case, not {name!r}.{hint}")
    if name.startswith("toolkit_"):
        hint = f"Did you mean {name.removeprefix('toolkit_')!r}?"
        raise PluginError(f"{name!r} starts with the prefix that the package gets anyway. {hint}")
    if keyword.iskeyword(name) or name in (NONE, "toolkit"):
        raise PluginError(f"{name!r} is reserved: choose another name for the plugin")
    for plugin in discover():
        if plugin.owner.name == name:
            raise PluginError(f"the name is taken by {plugin.owner}: choose another one")
    if importlib.util.find_spec(f"toolkit_{name}") is not None:
        raise PluginError(f"there is a package toolkit_{name} already: choose another name")
