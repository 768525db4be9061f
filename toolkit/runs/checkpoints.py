"""The checkpoints of a run that are asked for by step, or as the best by a measure on held-out data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import RunError
from toolkit.files import settle
from toolkit.runs.layout import checkpoints_in, step_of
from toolkit.runs.read import RunSummary, read_run

Which = Literal["lowest", "highest"]


@dataclass(frozen=True)
class Best:
    """The best checkpoint of those that a run keeps, and its measure."""

    path: Path
    measure: str
    value: float

    def __str__(self) -> str:
        return f"step {step_of(self.path):,}, {self.measure} {self.value:.4g}"


def best_among(
    checkpoints: Path, records: Sequence[Mapping[str, Any]], measure: str, which: Which
) -> Best | None:
    """The best of the checkpoints in a folder by the records of a run; of equals the first.

    None if no checkpoint is of a step in which the measure was recorded.
    """
    values = {record["step"]: record[measure] for record in records if record.get(measure) is not None}
    measured = [path for path in checkpoints_in(checkpoints) if step_of(path) in values]
    sign = -1 if which == "highest" else 1
    chosen = min(measured, key=lambda path: sign * values[step_of(path)], default=None)
    return None if chosen is None else Best(chosen, measure, values[step_of(chosen)])


def best_of(run: RunSummary) -> Best | None:
    """The best checkpoint of a run, by `keep_best` of its recipe; None without, or if none was measured."""
    options = run.recipe.get("checkpoints", {})
    measure = options.get("keep_best", "none")
    if measure == "none":
        return None
    return best_among(run.path / "checkpoints", run.records, measure, options.get("best_is", "lowest"))


def checkpoint_of(run: Path, which: int | Literal["best"]) -> Path:
    """The checkpoint of a step, or the best one.

    Raises:
        RunError: naming those that there are, or saying how the best one is kept.
    """
    settle(run)
    if which == "best":
        best = best_of(read_run(run))
        if best is None:
            raise RunError(
                f"{run}: keeps no best checkpoint: set checkpoints.keep_best, say to held_out/denoiser/loss, "
                "and run.measure_every"
            )
        return best.path
    found = {step_of(path): path for path in checkpoints_in(run / "checkpoints")}
    if which not in found:
        there = f"there are {', '.join(map(str, found))}" if found else "it has none"
        raise RunError(f"{run}: has no checkpoint of step {which}: {there}")
    return found[which]
