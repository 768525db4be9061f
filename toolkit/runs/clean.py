"""What of a run can be removed: what would be made again, or what only an older step could go on from."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import CheckpointError, RunError
from toolkit.runs.checkpoints import best_of
from toolkit.runs.folder import RunFolder
from toolkit.runs.layout import checkpoints_in, size_of, step_of
from toolkit.runs.read import read_run
from toolkit.training.checkpoint import verify


@dataclass(frozen=True)
class Removable:
    """A folder of a run that can go.

    Attributes:
        path: the folder.
        why: what it is.
        size: bytes of all files in it.
    """

    path: Path
    why: str
    size: int


def removable(run: Path, *, every_checkpoint: bool = False) -> Iterator[Removable]:
    """What a run does not need: samples that scores were computed from, and all checkpoints before the
    newest that is whole but the best.

    Args:
        run: a run folder.
        every_checkpoint: the newest one too, without which the run cannot go on, and the best.
    """
    scores = run / "scores"  # and those of its checkpoints below
    for path in sorted([*scores.glob("samples-*"), *scores.glob("step-*/samples-*")]):
        yield Removable(path, "samples of an evaluation, which would be drawn again", size_of(path))
    found = checkpoints_in(run / "checkpoints")
    newest = next((path for path in found[::-1] if _usable(path)), None)  # what resuming would take
    best = best_of(read_run(run))
    for path in found:
        if every_checkpoint:
            yield Removable(path, "a checkpoint", size_of(path))
        elif newest is not None and step_of(path) < step_of(newest) and not (best and path == best.path):
            yield Removable(path, "an earlier checkpoint", size_of(path))


def _usable(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except CheckpointError:
        return False
    return True


def clean(run: Path, chosen: list[Removable]) -> None:
    """Remove what was chosen of a run that nobody is working on.

    Raises:
        RunError: if a process has the run, or if a link is in the place of a folder.
    """
    folder = RunFolder(run)
    folder.claim(resume=True, overwrite=False)
    try:
        for one in chosen:
            inside = [one.path, *(path for path in one.path.parents if run in path.parents)]
            if any(path.is_symlink() for path in inside):
                raise RunError(f"{one.path}: is a link, or lies behind one: remove it yourself")
            shutil.rmtree(one.path)
    finally:
        folder.release()
