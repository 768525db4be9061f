"""The model card of a pipeline folder: README.md as the Hugging Face Hub shows it.

It is generated from the files, and again when they change. A card that somebody has edited is left alone: the
hash in its last line no longer matches the rest.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.commands import RunError, RunSummary, ScoreFile, read_json, read_run, say, write_text

CARD = "README.md"
PATH = re.compile(r"[/~\\]|\.\.?/|[A-Za-z]:\\")  # and not the id of a data set on the Hub
SEAL = "<!-- written by diffusion-toolkit, and again when there is news, unless you edit it: {} -->\n"


def card_of(folder: Path, run: Path | None = None) -> str:
    """The card of a pipeline folder, with the data, scores and cost that its run adds.

    Raises:
        CheckpointError: if pipeline.json cannot be read.
    """
    pipeline = read_json(folder / "pipeline.json")
    parts = [_front(folder, pipeline), _overview(pipeline), _use(pipeline)]
    try:
        summary = read_run(run) if run else None
    except RunError:
        summary = None  # it is reported where the run is read
    if summary is not None:
        parts += [_data(summary.recipe), _scores(summary, pipeline), _cost(summary)]
    return sealed("\n".join(part for part in parts if part) + "\n")


def refresh_card(folder: Path, run: Path | None) -> None:
    """Write the card of a pipeline folder; one that somebody has edited stays as it is, and that is said."""
    if not (folder / "pipeline.json").is_file():
        return  # a folder of another library's, whose card is not ours to write
    if kept_card(folder) is not None:
        say(f"{folder / CARD}: was edited, and stays as it is", "note")
        return
    write_text(folder / CARD, card_of(folder, run))


def kept_card(folder: Path) -> str | None:
    """The text of a card that somebody has edited; None if there is no such card."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rest, seal = _split(text)
    return None if not text or sealed(rest) == rest + seal else text


def sealed(text: str) -> str:
    """A text with its hash as the last line."""
    return text + SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def _split(text: str) -> tuple[str, str]:
    before, line, after = text.rpartition(SEAL.partition("{}")[0])
    return before, line + after


def _front(folder: Path, pipeline: Mapping[str, Any]) -> str:
    """The metadata by which the Hub sorts models. The licence is left to the author."""
    pictures = len(_shape(pipeline)) == 3 and pipeline.get("pictures", True)
    tags = ["diffusion", *(["image-generation"] if pictures else [])]
    tags += ["diffusers"] if (folder / "model_index.json").is_file() else []
    unconditional = pipeline["num_classes"] is None or pipeline["network"].get("conditional") is False
    task = ["pipeline_tag: unconditional-image-generation"] if pictures and unconditional else []
    return "\n".join(
        ["---", "library_name: diffusion-toolkit", *task, "tags:", *(f"- {t}" for t in tags), "---", ""]
    )


def _shape(pipeline: Mapping[str, Any]) -> list[int]:
    shape: list[int] = pipeline.get("image_shape") or pipeline["sample_shape"]
    return shape


def _overview(pipeline: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, _shape(pipeline)))
    trained = f", trained for {pipeline['steps']:,} steps" if pipeline.get("steps") is not None else ""
    by = f" by the recipe `{pipeline['recipe']}`" if pipeline.get("recipe") else ""
    averaged = (
        " Its weights are averages over the training steps." if pipeline.get("weights") == "ema" else ""
    )
    parts = ("encoder", "network", "schedule", "sampler", "start", "guidance")
    kinds = [part for part in parts if pipeline.get(part)]
    rows = [f"| {kind} | `{pipeline[kind]['type']}` | {_options(pipeline[kind])} |" for kind in kinds]
    return "\n".join([
        f"# {pipeline.get('recipe') or 'Pipeline'}", "",
        f"Samples of shape {shape}{trained}{by}.{averaged}", "",
        "| part | type | options |", "|---|---|---|", *rows, "",
    ])  # fmt: skip


def _use(pipeline: Mapping[str, Any]) -> str:
    plugins = ", ".join(f"`{name}` ({source})" for name, source in pipeline["plugins"].items())
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


def _scores(run: RunSummary, pipeline: Mapping[str, Any]) -> str:
    """Scores of these weights; those of an earlier step are another model's."""
    rows = [_row(score) for score in run.scores if score.is_of(pipeline)]
    if not rows:
        return ""
    head = ["| score | value | generated | real | sampler | protocol |", "|---|---|---|---|---|---|"]
    end = "Scores can be compared if their protocols have the same fingerprint."
    return "\n".join(["## Scores", "", *head, *rows, "", end, ""])


def _row(score: ScoreFile) -> str:
    values = "<br>".join(f"{value:.6g}" for value in score.values.values())
    protocol = score.protocol
    generated, real = (protocol.get(name, {}) for name in ("generated", "real"))
    sampler = (score.sampling or {}).get("sampler") or {}
    against = f"{real.get('num', '-')} {real.get('data', {}).get('type')}, {real.get('split')}"
    return (
        f"| {'<br>'.join(score.values)} | {values} | {generated.get('num', '-')} | {against} | "
        f"`{sampler.get('type')}` {_options(sampler)} | {score.fingerprint} |"
    )


def _cost(run: RunSummary) -> str:
    if run.cost is None:
        return ""
    now = {"train_seconds": run.train_seconds, "train_images_per_second": run.images_per_second}
    known = {name: value for name, value in now.items() if value is not None}  # since then, of all its parts
    cost = {**run.cost.model_dump(mode="json"), **known}
    rows = [f"| {name.replace('_', ' ')} | {_number(value)} |" for name, value in cost.items()]
    return "\n".join(["## Cost", "", "| | |", "|---|---|", *rows, ""])


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_number(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1e5 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _options(table: Mapping[str, Any]) -> str:
    """A table's options on one line; a path on somebody's machine is reduced to its last part."""
    texts = [
        f"{name} {_text(value)}"
        for name, value in table.items()
        if name != "type" and value not in (None, "none")
    ]
    return ", ".join(texts).replace("|", "\\|").replace("\n", " ")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join([str(value.get('type', '')), _options(value)]).strip(', ')})"
    if isinstance(value, list):
        return f"({', '.join(map(_text, value))})"
    is_path = isinstance(value, str) and PATH.match(value)
    return Path(value).name if is_path else str(value)
