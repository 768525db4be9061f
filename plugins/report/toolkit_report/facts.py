"""Facts about a run besides its scores: recorded in training, or measured by its cost card."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.commands import RunSummary, ScoreFile
from toolkit_report.differences import differences


def train_seconds(run: RunSummary) -> float | None:
    """Training time as recorded, if it was: a cost card may be older than the run's last part."""
    return run.train_seconds or (run.cost.train_seconds if run.cost else None)


def train_speed(run: RunSummary) -> float | None:
    """Training images per second."""
    return run.images_per_second or (run.cost.train_images_per_second if run.cost else None)


def seconds_per_image(run: RunSummary) -> float | None:
    """Sampling time of one image, by the sampler that the pipeline was saved with."""
    return 1 / run.cost.samples_per_second if run.cost and run.cost.samples_per_second else None


def network_calls(run: RunSummary) -> int | None:
    return run.cost.network_calls if run.cost else None


def parameters(run: RunSummary) -> int | None:
    """Parameters of the network that samples, according to the cost card."""
    role = (run.pipeline or {}).get("role", "")
    return run.cost.parameters.get(role) if run.cost else None


def sampled_as_saved(run: RunSummary, score: ScoreFile) -> bool:
    """Whether a score was measured with the sampler whose speed the cost card gives."""
    sampling = score.sampling or {}
    return run.pipeline is not None and sampling.get("sampler") == run.pipeline.get("sampler")


def sampled(score: ScoreFile) -> str:
    """How the samples of a score were made, in a few words: "ddim 50", "ancestral 100 from surrogate"."""
    sampling = score.sampling or {}
    sampler, start, guidance = (sampling.get(part) or {} for part in ("sampler", "start", "guidance"))
    steps = sampler.get("num_inference_steps")
    words = [sampler.get("type"), steps if not isinstance(steps, list) else sum(steps)]
    words += [f"from {start['type']}"] if start.get("type", "noise") != "noise" else []
    words += [f"{guidance['type']} {guidance.get('scale', '')}".strip()] if guidance.get("type") else []
    words += ["raw weights"] if sampling.get("weights") == "raw" else []
    return " ".join(str(word) for word in words if word is not None)


def by_objective(runs: Sequence[RunSummary], places: Sequence[int]) -> dict[str, list[int]]:
    """Places of runs by objective and data, in words such as "denoising, loss.target flow".

    Objectives are different if components or other words in their tables are: a number is a matter of degree,
    and the losses of a sweep over it belong into one picture. Words that tell no two apart are left out.
    """
    wordings: dict[str, tuple[Any, list[int]]] = {}
    for place in places:
        recipe = runs[place].recipe
        data = {key: recipe.get("data", {}).get(key, "") for key in ("type", "path")}
        words = {**_words(recipe.get("objective", {})), "data": data}
        wordings.setdefault(json.dumps(words, sort_keys=True), (words, []))[1].append(place)
    between = list(differences([words for words, _ in wordings.values()], ignored=("type",)))
    groups: dict[str, list[int]] = {}
    for i, (words, members) in enumerate(wordings.values()):
        kind = words.get("type", "an objective")
        alike = [
            j for j, (other, _) in enumerate(wordings.values()) if other.get("type") == words.get("type")
        ]
        telling = [d for d in between if len({d.texts()[j] for j in alike}) > 1]
        options = "".join(f", {d.key} {d.texts()[i]}" for d in telling)
        groups.setdefault(f"{kind}{options}", []).extend(members)
    return groups


def _words(table: Any) -> Any:
    """A table without what is not text, inside it too."""
    if not isinstance(table, Mapping):
        return table
    inner = {key: _words(value) for key, value in table.items()}
    return {key: value for key, value in inner.items() if isinstance(value, (str, Mapping))}


def number(table: Mapping[str, Any] | None, key: str) -> float | None:
    """A finite number in a table; None if there is none under that key."""
    value = (table or {}).get(key)
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]


def time_unit(seconds: Sequence[float]) -> tuple[str, float]:
    """A unit that suits these times, and its length in seconds."""
    longest = max(seconds, default=0.0)
    return next(((u, n) for u, n in (("h", 3600.0), ("min", 60.0)) if longest >= 3 * n), ("s", 1.0))
