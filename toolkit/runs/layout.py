"""The names of files in a run folder, and the run folder that a path means."""

import re
from pathlib import Path

from toolkit.files import settle

LOCK = ".lock"
COST = "cost.json"
CHANGES = "changes.jsonl"
FILES = ("recipe.toml", "environment.json", "metrics.jsonl", "run.json", CHANGES, COST)
CHECKPOINT = re.compile(r"step-(\d{7,})")
FOLDERS = ("samples", "checkpoints", "snapshots", "pipeline", "networks", "scores", "trackers")


def step_name(step: int) -> str:
    """The name of what belongs to a step: a checkpoint, a grid."""
    return f"step-{step:07d}"


def step_of(path: Path) -> int:
    """The step that a `step_name` is of."""
    return int(path.name.removeprefix("step-"))


def checkpoints_in(folder: Path) -> list[Path]:
    """All paths named like a checkpoint, complete or not, in order of step."""
    return sorted((path for path in folder.glob("step-*") if CHECKPOINT.fullmatch(path.name)), key=step_of)


def run_of(source: str | Path) -> Path | None:
    """The run folder that a path means: itself, or the one whose pipeline it is; None if it is neither."""
    path = Path(source)
    if (path / "recipe.toml").is_file():
        return path
    # Another pipeline beside it, or in a folder that has a recipe by chance, is not what that run trained.
    own = path.name == "pipeline" and all(
        (path.parent / name).is_file() for name in ("recipe.toml", "run.json")
    )
    return path.parent if own else None


def holds_images(folder: Path) -> bool:
    """Whether a folder holds images rather than a model."""
    settle(folder)
    models = ("pipeline.json", "network.json", "model_index.json", "pipeline", "recipe.toml")
    return folder.is_dir() and not any((folder / name).exists() for name in models)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; what links lead to does not count."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
