"""Whether `toolkit recipe check` answers whatever is written in a recipe, with an error or with a result.

    python benchmarks/bad_recipes.py [--count 300] [--seed 0] [--limit 60]

Each trial takes a packaged recipe, changes it in one way or in several by a random generator with a seed of
its own, and checks it in this process. A trial is "refused" if it ends with exit code 2 and lines that begin
with "error:", and `toolkit train` refuses it too; or "valid" if the change does no harm and everything
in the recipe was built and tried. Every other end is a fault: a traceback, another exit code, an error that
names no place, or more than `--limit` seconds of computing. Data that would have to be downloaded is replaced
by a few small pictures, and the widths of UNets by 32.
"""

import argparse
import copy
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from PIL import Image

from toolkit.cli import main as toolkit
from toolkit.recipe import read_layers
from toolkit.recipe.packaged import packaged
from toolkit.recipe.writer import write_toml
from toolkit.registry.load import load

HERE = ("digits", "gaussians25")  # data that needs no network
MEMORY = 16 * 2**30
NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 7, 64, 1000, 10**6, 10**9, 2**63, 10**30, -(10**30), 0.0, -0.5, 0.5, 1.0, 1.5, 1e-30,
    1e30, 1e308, float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
TEXTS = [
    "", "none", "x", "1", "true", "nan", "../..", "~", "/", "/dev/null", "/dev/zero", "a/b", "\0", "\x1b[31m",
    "\u202e", "é", "\ud7ff\n", "x" * 100_000, "[run]", "🎲",
]  # fmt: skip
NESTED: list[Any] = [
    [], {}, [[]], [{}], {"a": 1}, {"type": 1}, {"type": "cosine"}, {"type": []}, [0], [8], [8, 9], [-1, 8],
    ["x", "x"], [[8, 8], [8]], {"type": "linear", "x": {}}, [0.1] * 10_000, [1, "x", None, True], True, False,
]  # fmt: skip
TABLE = dict[str, Any]


class Trial:
    """A recipe's tables, its text if that is not theirs, the flags, and what was done to it."""

    def __init__(self, chance: random.Random, name: str, tables: TABLE) -> None:
        self.chance, self.name, self.tables = chance, name, tables
        self.text: str | bytes | None = None
        self.flags: list[str] = []
        self.done: list[str] = []

    def written(self) -> str:
        return write_toml(self.tables)

    def places(self) -> list[tuple[TABLE, str]]:
        """Every table with each of its keys, at every depth."""
        return list(_places(self.tables))

    def component_places(self) -> list[TABLE]:
        inner = [table[key] for table, key in self.places() if isinstance(table[key], dict)]
        return [table for table in inner if "type" in table] or [self.tables]

    def value(self) -> Any:
        kinds: list[list[Any]] = [NUMBERS, NUMBERS, TEXTS, NESTED]
        return copy.deepcopy(self.chance.choice(self.chance.choice(kinds)))


def _places(table: TABLE) -> Iterator[tuple[TABLE, str]]:
    for key, value in table.items():
        yield table, key
        if isinstance(value, dict):
            yield from _places(value)


def delete(trial: Trial) -> None:
    table, key = trial.chance.choice(trial.places())
    del table[key]
    trial.done.append(f"without {key}")


def rename(trial: Trial) -> None:
    table, key = trial.chance.choice(trial.places())
    at = trial.chance.randrange(len(key) + 1)
    new = trial.chance.choice(
        [key[:at] + "q" + key[at:], key.upper(), key[:at], key + "\x1b", "é", "", "type"]
    )
    table[new] = table.pop(key)
    trial.done.append(f"{key} as {new!r}")


def duplicate(trial: Trial) -> None:
    lines = trial.written().splitlines()
    lines.insert(trial.chance.randrange(len(lines)), trial.chance.choice(lines))
    trial.text = "\n".join(lines)
    trial.done.append("a line twice")


def replace(trial: Trial) -> None:
    table, key = trial.chance.choice(trial.places())
    table[key] = trial.value()
    trial.done.append(f"{key} = {str(table[key])[:80]!r}")


def option(trial: Trial) -> None:
    """An option that the recipe may leave at its default, of a component that it names."""
    table = trial.chance.choice(trial.component_places())
    components = [c for kind in load().registry.kinds() for c in load().registry.components(kind).values()]
    options = [o for c in components if c.name == table.get("type") for o in c.options]
    if not options:
        return replace(trial)
    name = trial.chance.choice(options).name
    table[name] = trial.value()
    trial.done.append(f"{table.get('type')}.{name} = {str(table[name])[:80]!r}")
    return None


def change_type(trial: Trial) -> None:
    table = trial.chance.choice(trial.component_places())
    names = [name for kind in load().registry.kinds() for name in load().registry.components(kind)]
    table["type"] = trial.chance.choice([*names, "unknown", "Unet", "", 1])
    trial.done.append(f"type = {table['type']!r}")


def swap(trial: Trial) -> None:
    tables = [(table, key) for table, key in trial.places() if isinstance(table[key], dict)]
    (one, a), (two, b) = trial.chance.choice(tables), trial.chance.choice(tables)
    one[a], two[b] = copy.deepcopy(two[b]), copy.deepcopy(one[a])
    trial.done.append(f"{a} and {b} changed places")


def flag(trial: Trial) -> None:
    table, key = trial.chance.choice(trial.places())
    path = next(path for path, owner, name in _paths(trial.tables, ()) if owner is table and name == key)
    value = trial.value()
    written = write_toml({"x": value}).strip()
    text = written[4:] if written.startswith("x = ") else str(value)
    trial.flags.append(f"{'.'.join(path)}={text}".replace("\0", "\\0")[:100_000])
    trial.done.append(f"--set {trial.flags[-1][:80]!r}")


def _paths(table: TABLE, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], TABLE, str]]:
    for key, value in table.items():
        yield (*path, key), table, key
        if isinstance(value, dict):
            yield from _paths(value, (*path, key))


def damage(trial: Trial) -> None:
    """Bytes, not values."""
    text = bytearray(trial.written().encode("utf-8", "replace"))
    for _ in range(trial.chance.choice([1, 1, 3, 20])):
        text[trial.chance.randrange(len(text))] = trial.chance.randrange(trial.chance.choice([128, 256]))
    trial.text = bytes(text)
    trial.done.append("damaged bytes")


def large(trial: Trial) -> None:
    text, many = trial.written(), trial.chance.choice([1_000, 20_000])
    kinds: dict[str, Callable[[], str]] = {
        "headers": lambda: text + "".join(f"\n[t{i}]" for i in range(many)),
        "roles": lambda: text + "".join(f"\n[networks.r{i}]" for i in range(many)),
        "keys": lambda: text + "\n" + "\n".join(f"k{i} = 1" for i in range(many)),
        "elements": lambda: text + "\n[[a]]" * many,
        "depth": lambda: text + f"\n[x]\na = {'[' * many}{']' * many}",
        "dots": lambda: text + f"\n[{'.'.join('a' * many)}]",
        "tables": lambda: text + f"\n[x]\na = {'{a=' * 200}1{'}' * 200}",
        "comment": lambda: text + "#" * 2_000_000,
    }
    kind = trial.chance.choice(list(kinds))
    trial.text = kinds[kind]()
    trial.done.append(f"{many} {kind}")


def extend(trial: Trial) -> None:
    names = [
        "bad.toml",
        "./bad.toml",
        "nowhere",
        "nowhere.toml",
        "",
        "/",
        "..",
        "\0",
        "~/x.toml",
        "other.toml",
    ]
    parents = trial.chance.choice([trial.chance.choice(names), [trial.name, "bad.toml"], 1, {"a": 1}, [[]]])
    trial.text = write_toml({"extends": parents}) + trial.written()
    Path("other.toml").write_text('extends = ["bad.toml"]\n')
    trial.done.append(f"extends {parents!r}")


CHANGES = (
    delete, rename, duplicate, replace, replace, option, option, option, option, change_type,
    change_type, swap, flag, flag, damage, large, extend,
)  # fmt: skip


def changed(number: int, seed: int, pictures: Path) -> Trial:
    """The trial of that number: always the same for a seed."""
    chance = random.Random(f"{seed} {number}")
    recipes = packaged()
    recipe = recipes[number % len(recipes)]
    tables = copy.deepcopy(read_layers(recipe.path).values)
    data = tables["data"]
    if data["type"] not in HERE:
        grey = "mnist" in recipe.name and "stacked" not in recipe.name
        tables["data"] = {
            "type": "folder", "path": str(pictures), "channels": 1 if grey else 3,
            "size": min(data.get("size") or 32, 32), "held_out_fraction": 0.2,
        }  # fmt: skip
    for network in tables["networks"].values():
        if "block_out_channels" in network:
            network["block_out_channels"] = [32 for _ in network["block_out_channels"]]
    trial = Trial(chance, recipe.name, tables)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if trial.text is None:
            chance.choice(CHANGES)(trial)
    return trial


class TooLong(BaseException):
    """The trial did not end in time."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong

    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, 1), signal.SIGALRM: (signal.ITIMER_REAL, 10)}
    before = {number: signal.signal(number, stop) for number in clocks}
    for clock, times in clocks.values():  # of this process, and for what waits, of the wall
        signal.setitimer(clock, seconds * times)
    try:
        yield
    finally:
        for number, (clock, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


def outcome(trial: Trial, limit: int, verb: tuple[str, ...] = ("recipe", "check")) -> tuple[str, str]:
    """How a trial ends, in a word, and what was printed."""
    text = trial.written() if trial.text is None else trial.text
    Path("bad.toml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        with time_limit(limit):
            result = CliRunner().invoke(
                toolkit, [*verb, "bad.toml", *(f"--set={one}" for one in trial.flags)]
            )
    except TooLong:
        return "too long", ""
    if result.exc_info is not None and result.exc_info[0] is TooLong:
        return "too long", "".join(traceback.format_exception(*result.exc_info)[-12:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "traceback", "".join(traceback.format_exception(result.exception))
    if result.exit_code == 0:
        return "valid", result.output
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    if result.exit_code != 2 or not errors:
        return f"exit code {result.exit_code} without an error", result.output
    if not all(line.isprintable() and len(line) < 4_000 for line in errors) or len(errors) > 100:
        return "an error that is too long or cannot be printed", result.output
    if not any("bad.toml" in line or "--set" in line for line in errors):
        return "an error without a place", result.output
    return "refused", result.output


def tried(trial: Trial, limit: int) -> tuple[str, str]:
    """How a trial ends; what `check` refuses before it takes a step, `train` has to refuse as well."""
    end, output = outcome(trial, limit)
    if end == "refused" and "\none step: " not in output:
        again, said = outcome(trial, limit, ("train",))
        if again != "refused":
            return f"refused, but by `train`: {again}", output + said
    return end, output


def draw_pictures(folder: Path) -> None:
    """Twenty pictures of random colours in ten classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        path = folder / str(number % 10) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="number of recipes")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=60, help="seconds of computing for each")
    parser.add_argument("--verbose", action="store_true", help="print every answer")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # rather an error than the end of the machine
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        draw_pictures(Path("pictures"))
        for number in range(arguments.first, arguments.first + arguments.count):
            trial = changed(number, arguments.seed, Path("pictures").absolute())
            start = time.process_time()
            end, output = tried(trial, arguments.limit)
            seconds = time.process_time() - start
            slowest = max(slowest, seconds)
            counts[end] += 1
            if end not in ("refused", "valid") or arguments.verbose:
                print(f"{number} {trial.name}, {'; '.join(trial.done)}: {end} ({seconds:.1f} s)")
                print("\n".join("    " + line[:300] for line in output.splitlines()[-40:]), flush=True)
    print(f"{arguments.count} recipes: " + ", ".join(f"{count} {end}" for end, count in counts.most_common()))
    print(f"the slowest took {slowest:.1f} s")
    sys.exit(bool(set(counts) - {"refused", "valid"}))


if __name__ == "__main__":
    main()
