"""What is known of a run besides its scores: recorded while it trained, or measured by its cost card."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.summary import RunSummary, ScoreFile


def train_seconds(run: RunSummary) -> float | None:
    """As recorded: a cost card may be older than the run's last part."""
    return run.train_seconds or number(run.cost, "train_seconds")


def train_speed(run: RunSummary) -> float | None:
    """Images per second."""
    return run.images_per_second or number(run.cost, "train_images_per_second")


def seconds_per_image(run: RunSummary) -> float | None:
    """Sampling time of one image, by the sampler that the pipeline was saved with."""
    speed = number(run.cost, "samples_per_second")
    return 1 / speed if speed else None


def network_calls(run: RunSummary) -> int | None:
    calls = number(run.cost, "network_calls")
    return None if calls is None else int(calls)


def parameters(run: RunSummary) -> int | None:
    """Of the network that is sampled, as the cost card says."""
    role = (run.pipeline or {}).get("role", "")
    counted = number((run.cost or {}).get("parameters"), role)
    return None if counted is None else int(counted)


def sampled_as_saved(run: RunSummary, score: ScoreFile) -> bool:
    """Whether a score is of the sampler whose speed the cost card states."""
    sampling = score.protocol.get("sampling") or {}
    return run.pipeline is not None and sampling.get("sampler") == run.pipeline.get("sampler")


def number(table: Mapping[str, Any] | None, key: str) -> float | None:
    """A finite number in a table; None where there is no such."""
    value = (table or {}).get(key)
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]


def time_unit(seconds: Sequence[float]) -> tuple[str, float]:
    """What to count such times in, and how many seconds that has."""
    longest = max(seconds, default=0.0)
    return next(((u, n) for u, n in (("h", 3600.0), ("min", 60.0)) if longest >= 3 * n), ("s", 1.0))
