"""The model card of a pipeline folder: README.md as the Hugging Face Hub shows it.

It is made of what the files say, and written anew when these change. A card that somebody has edited is left
alone: the hash in its last line is not that of the rest any more.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.files import read_json, write_text
from toolkit.report.facts import train_seconds, train_speed
from toolkit.summary import ScoreFile, read_run, scores_of

CARD = "README.md"
PATH = re.compile(r"[/~\\]|\.\.?/|[A-Za-z]:\\")  # and not the id of a data set on the Hub
SEAL = "<!-- written by diffusion-toolkit, and again when there is news, unless you edit it: {} -->\n"


def card_of(folder: Path, run: Path | None = None) -> str:
    """The card of a pipeline folder, with what its run knows besides: data, scores, cost."""
    stated = read_json(folder / "pipeline.json")
    recipe = _toml(run / "recipe.toml") if run else {}
    parts = [
        _front(folder, stated),
        _what(stated),
        _use(stated),
        _data(recipe),
        _scores(run, stated),
        _cost(run),
    ]
    return sealed("\n".join(part for part in parts if part) + "\n")


def refresh_card(folder: Path, run: Path) -> bool:
    """Write the card anew; False if somebody has edited it, and it stays as it is."""
    edited = kept_card(folder) is not None
    if not edited:
        write_text(folder / CARD, card_of(folder, run))
    return not edited


def kept_card(folder: Path) -> str | None:
    """The card that somebody has edited; None if there is none."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rest, found = _split(text)
    return None if not text or sealed(rest) == rest + found else text


def sealed(text: str) -> str:
    """A text with its hash as the last line."""
    return text + SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def _split(text: str) -> tuple[str, str]:
    before, line, after = text.rpartition(SEAL.partition("{}")[0])
    return before, line + after


def _front(folder: Path, stated: Mapping[str, Any]) -> str:
    """What the Hub sorts models by. The licence is the author's to state."""
    pictures = len(stated["sample_shape"]) == 3
    tags = ["diffusion", *(["image-generation"] if pictures else [])]
    tags += ["diffusers"] if (folder / "model_index.json").is_file() else []
    unconditional = stated["num_classes"] is None or stated["network"].get("conditional") is False
    task = ["pipeline_tag: unconditional-image-generation"] if pictures and unconditional else []
    return "\n".join(
        ["---", "library_name: diffusion-toolkit", *task, "tags:", *(f"- {t}" for t in tags), "---", ""]
    )


def _what(stated: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, stated["sample_shape"]))
    trained = f", trained for {stated['steps']:,} steps" if stated.get("steps") is not None else ""
    by = f" by the recipe `{stated['recipe']}`" if stated.get("recipe") else ""
    averaged = " Its weights are averages over the training steps." if stated.get("weights") == "ema" else ""
    kinds = ("network", "schedule", "sampler", "initialiser")
    rows = [f"| {kind} | `{stated[kind]['type']}` | {_options(stated[kind])} |" for kind in kinds]
    return "\n".join([
        f"# {stated.get('recipe') or 'Pipeline'}", "",
        f"Samples of shape {shape}{trained}{by}.{averaged}", "",
        "| part | type | options |", "|---|---|---|", *rows, "",
    ])  # fmt: skip


def _use(stated: Mapping[str, Any]) -> str:
    plugins = ", ".join(f"`{name}` ({source})" for name, source in stated["plugins"].items())
    needs = f"It needs the plugins {plugins}." if plugins else "It needs no plugins."
    return f"""## How to sample

```python
import toolkit

pipeline = toolkit.load("FOLDER")  # this folder, or this repository's id
images = pipeline(batch_size=16).images
```

or `toolkit sample FOLDER --num 16 --out grid.png`. {needs}
"""


def _data(recipe: Mapping[str, Any]) -> str:
    if "data" not in recipe:
        return ""
    objective = recipe.get("objective", {})
    return f"""## Training

| | type | options |
|---|---|---|
| data | `{recipe["data"].get("type")}` | {_options(recipe["data"])} |
| objective | `{objective.get("type")}` | {_options(objective)} |
| batch | {recipe.get("run", {}).get("batch_size")} | |
"""


def _scores(run: Path | None, stated: Mapping[str, Any]) -> str:
    """Scores of these weights; those of an earlier step are another model's."""
    try:
        found = scores_of(run) if run else ()
    except RunError:
        found = ()  # it is reported where scores are asked for
    rows = [_row(score) for score in found if score.is_of(stated)]
    if not rows:
        return ""
    head = ["| score | value | generated | real | sampler | protocol |", "|---|---|---|---|---|---|"]
    end = "Scores can be compared if their protocols, of which these are fingerprints, are the same."
    return "\n".join(["## Scores", "", *head, *rows, "", end, ""])


def _row(score: ScoreFile) -> str:
    values = "<br>".join(f"{value:.6g}" for value in score.values.values())
    protocol = score.protocol
    generated, real = (protocol.get(name, {}) for name in ("generated", "real"))
    sampler = (protocol.get("sampling") or {}).get("sampler", {})
    against = f"{real.get('num', '-')} {real.get('data', {}).get('type')}, {real.get('split')}"
    return (
        f"| {'<br>'.join(score.values)} | {values} | {generated.get('num', '-')} | {against} | "
        f"`{sampler.get('type')}` {_options(sampler)} | {score.fingerprint} |"
    )


def _cost(run: Path | None) -> str:
    if run is None or not (run / "cost.json").is_file():
        return ""
    cost = json.loads((run / "cost.json").read_text(encoding="utf-8"))
    cost |= _training(run, cost)
    rows = [f"| {name.replace('_', ' ')} | {_number(value)} |" for name, value in cost.items()]
    return "\n".join(["## Cost", "", "| | |", "|---|---|", *rows, ""])


def _training(run: Path, cost: Mapping[str, Any]) -> dict[str, float | None]:
    """What training cost so far, which is more than the cost card says if the run was resumed."""
    try:
        summary = read_run(run)
    except RunError:
        return {}  # it is reported where the run is asked for
    now = {"train_seconds": train_seconds(summary), "train_images_per_second": train_speed(summary)}
    return {name: value for name, value in now.items() if name in cost}


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1e5 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _options(table: Mapping[str, Any]) -> str:
    """A table's options in a line; of a path on somebody's machine only the name."""
    shown = [
        f"{name} {_told(value)}"
        for name, value in table.items()
        if name != "type" and value not in (None, "none")
    ]
    return ", ".join(shown).replace("|", "\\|").replace("\n", " ")


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join([str(value.get('type', '')), _options(value)]).strip(', ')})"
    if isinstance(value, list):
        return f"({', '.join(map(_told, value))})"
    is_path = isinstance(value, str) and PATH.match(value)
    return Path(value).name if is_path else str(value)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
