"""A sweep: the study of one recipe with each of several values, written as flags."""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.commands import Layers, RecipeError, flag_layer, write_text, write_toml


def swept(
    recipe: str, overrides: Sequence[str], metrics: Sequence[str], scoring: Sequence[str],
    seeds: Sequence[int],
) -> Layers:  # fmt: skip
    """The layers of a study with a run for each combination of values.

    Args:
        recipe: a packaged one, or a file.
        overrides: `key=value`, or `key=value,value`: one run for each.
        metrics: names.
        scoring: assignments to [images], [features] and [metrics], as `--set` takes them.
        seeds: of every run.

    Raises:
        RecipeError: if a flag is no assignment, or none has several values.
    """
    fixed = [flag for flag in overrides if len(values_of(flag)) == 1]
    several = [flag for flag in overrides if flag not in fixed]
    if not several:
        given = " ".join(f"--set {flag}" for flag in overrides)
        raise RecipeError(f"{given}: no flag has several values, such as run.batch_size=32,64")
    file = Path(recipe).expanduser()
    stem, source = (file.stem, str(file.absolute())) if recipe.endswith(".toml") else (recipe, recipe)
    title = f"{stem}, by {' and '.join(flag.partition('=')[0].strip() for flag in several)}"
    values: dict[str, Any] = {
        "study": {"title": title, "seeds": list(seeds), "ranked": True}, "runs": {},
        "metrics": {name: {} for name in metrics},
    }  # fmt: skip
    origins: dict[tuple[str, ...], str] = {}

    def put(table: tuple[str, ...], flags: Sequence[str], said: Sequence[str]) -> None:
        """Set what flags say in a table, from where the user said it."""
        layer = flag_layer(flags)
        inner = values
        for key in table:
            inner = inner.setdefault(key, {})
        _merge(inner, layer.values)
        shown = dict(zip(flags, said, strict=True))
        for path, origin in layer.origins.items():
            origins[*table, *path] = f"--set {shown[origin.removeprefix('--set ')]}"

    put(("set",), fixed, fixed)
    put((), scoring, scoring)
    names: list[str] = []
    for choice in itertools.product(*map(values_of, several)):
        told = [one.partition("=") for one in choice]
        words = [f"{key.strip().rpartition('.')[2]} = {value.strip()}" for key, _, value in told]
        name = re.sub(r"\W+", "_", "_".join(words).replace(" = ", "_")).strip("_")[:80]
        name = name if name not in names else f"{name}_{len(names)}"
        names.append(name)
        values["runs"][name] = {"recipe": source, "title": ", ".join(words)}
        put(("runs", name, "set"), choice, several)
    if not metrics:
        del values["metrics"]
    if len(names) > 1:
        first = values["runs"][names[0]]["title"]
        values["comparisons"] = {"first": {"baseline": names[0], "title": f"Against {first}"}}
    return Layers(f"{stem}-sweep", None, "toolkit sweep", values, origins)


def values_of(flag: str) -> list[str]:
    """The assignments of a flag: one for each value between commas, but for those in brackets and quotes."""
    key, equals, text = flag.partition("=")
    return [f"{key}{equals}{value.strip()}" for value in _parts(text)]


def _parts(text: str) -> Iterator[str]:
    """The text cut at commas that are in no brackets and no quotes."""
    depth, quote, start = 0, "", 0
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _merge(into: dict[str, Any], table: dict[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def study_file(layers: Layers, path: Path) -> None:
    """Write the study as a file, which says the same."""
    write_text(path, f"# {layers.values['study']['title']}\n\n{write_toml(_plain(layers.values))}")


def _plain(value: Any) -> Any:
    """Values as a file has them: those of flags are text and a value, of which the option chooses."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return getattr(value, "value", value)
