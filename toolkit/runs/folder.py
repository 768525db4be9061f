"""The run folder: everything that a run leaves behind.

recipe.toml       resolved, with every default        environment.json   versions, plugins, git, command
metrics.jsonl     one record every run.log_every steps   run.json        status and step
changes.jsonl     values that were changed on resuming, if any
samples/          grids, raw and EMA                   checkpoints/      see toolkit.training.checkpoint
snapshots/        averages of stated widths, see toolkit.runs.snapshots
pipeline/         the trained model       scores/            what `toolkit evaluate` measured
cost.json         what `toolkit cost` measured
networks/         instead of a pipeline, by role, if nothing samples
"""

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from toolkit.errors import RunError
from toolkit.files import owned, read_text, refuse_foreign, write_json, write_text, writing
from toolkit.recipe import Recipe
from toolkit.runs.layout import CHANGES, FILES, FOLDERS, LOCK, step_name
from toolkit.runs.read import read_records

SEEN = 60.0  # seconds until a network file system shows a new file to all machines; NFS caches for up to 60

Status = Literal["running", "finished", "stopped", "failed"]


class RunFolder:
    """The folder of one run, which only one process at a time can hold.

    Args:
        path: the folder; created when it is claimed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.metrics = path / "recipe.toml", path / "metrics.jsonl"
        self.samples, self.checkpoints = path / "samples", path / "checkpoints"
        self.pipeline, self.trackers = path / "pipeline", path / "trackers"
        self._lock: int | None = None
        self._made = False

    def claim(self, *, resume: bool, overwrite: bool) -> None:
        """Take the folder for this process.

        Raises:
            RunError: if another process has it, if it has a run and neither flag is given, if it holds
                files but no run, or if it cannot be written.
        """
        refuse_foreign(self.path, _foreign, "run", "run.out")
        self._refuse_what_stands_in_the_way(overwrite)
        self._made = not self.path.exists()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = owned(self.path / LOCK)
        if _taken(self._lock):
            owner = os.pread(self._lock, 256, 0).decode(errors="replace") or "unknown"
            os.close(self._lock)
            self._lock = None
            raise RunError(f"{self.path}: is in use by process {owner}")
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()} on {platform.node()} since {time.ctime()}".encode(), 0)
        os.fsync(self._lock)  # other machines shall see it
        if self.recipe.exists() and not (resume or overwrite):
            self.release()
            raise RunError(
                f"{self.path}: already holds a run ({self.status()}). Go on with --resume, "
                "replace it with --overwrite, or choose another folder with --set run.out=..."
            )

    def owner(self) -> str:
        """The process that has claimed the folder last, its machine and the time; "" if none is seen."""
        try:
            return read_text(self.path / LOCK, follow=False)
        except (OSError, ValueError):
            return ""

    def refuse_unless_shared(self, owner: str) -> None:
        """Refuse a folder that is not the one that `owner`, the main process of this run, has claimed.

        Raises:
            RunError: naming the folder and this machine.
        """
        last = time.monotonic() + SEEN
        while self.owner() != owner:
            if time.monotonic() > last:
                raise RunError(
                    f"{self.path.absolute()}: on {platform.node()} this is not the folder that process "
                    f"{owner} has claimed. Set run.out to a folder that all machines share"
                )
            time.sleep(0.1)

    def _refuse_what_stands_in_the_way(self, overwrite: bool) -> None:
        """Find now, and not after hours of training, what could not be written or replaced."""
        for name in (*FOLDERS, *FILES):
            path = self.path / name
            if path.is_symlink() and name in FOLDERS and overwrite:
                raise RunError(
                    f"{path}: is a link, whose target --overwrite does not remove: remove the link"
                )
            if not path.exists():
                continue
            if path.is_dir() != (name in FOLDERS):
                raise RunError(
                    f"{path}: is {'a folder' if path.is_dir() else 'a file'}, where a run has its own"
                )
            if not os.access(path, os.W_OK):
                raise RunError(f"cannot write {path}: Permission denied")

    def clear(self) -> None:
        """Remove the run, but nothing else that somebody may have put beside it."""
        with writing(self.path):
            # Its state first: a run that is half removed must not be taken for a finished one.
            for path in (self.path / name for name in ("run.json", *FOLDERS, *FILES)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let other processes have the folder; the operating system does so when this process dies.

        A folder that was made for a run that did not begin is removed.
        """
        if self._lock is not None:
            if self._made and os.listdir(self.path) == [LOCK]:
                with suppress(OSError):  # somebody has put something into it
                    (self.path / LOCK).unlink()
                    self.path.rmdir()
            os.close(self._lock)
            self._lock = None

    def describe(self, recipe: Recipe, plugins: Mapping[str, str], computes: Mapping[str, object]) -> None:
        """Write the resolved recipe, and the environment of the run."""
        write_text(self.recipe, recipe.to_toml())
        write_json(self.path / "environment.json", {**environment(plugins), "computes": dict(computes)})

    def set_status(self, status: Status, step: int, *, due: bool = False) -> None:
        """Write the state of the run; `due` if something of a finished one is still to be made."""
        state = {"status": status, "step": step, "time": time.time()}
        write_json(self.path / "run.json", {**state, "due": True} if due else state)

    def status(self) -> str:
        """The state of the run, in words."""
        state = self._state()
        return f"{state['status']} at step {state['step']}" if state else "not finished"

    def finished(self) -> int | None:
        """The last step of a run that is complete; None if it is not."""
        state = self._state()
        return state["step"] if state and state["status"] == "finished" and not state["due"] else None

    def _state(self) -> dict[str, Any] | None:
        try:
            state = json.loads(read_text(self.path / "run.json", follow=False))
            return {
                "status": state["status"], "step": int(state["step"]), "due": bool(state.get("due")),
            }  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def record(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; JSON has no nan, so a number that is not finite becomes null."""
        known = {n: v if not isinstance(v, float) or math.isfinite(v) else None for n, v in values.items()}
        self._append(self.metrics, known)

    def _append(self, path: Path, values: Mapping[str, Any]) -> None:
        with writing(path), os.fdopen(owned(path, os.O_APPEND), "a", encoding="utf-8") as file:
            file.write(json.dumps(values, default=str) + "\n")

    def done(self, step: int) -> set[str]:
        """Of what is due after that step, what has been done: its "log", "measure" and "grid"."""
        records, _ = read_records(self.metrics)
        names = {name for record in records if record["step"] == step for name in record}
        grid = self.samples / f"{step_name(step)}.png"
        done = {"log"} if "images_per_second" in names else set()
        done |= {"measure"} if any(name.startswith("held_out/") for name in names) else set()
        return done | ({"grid"} if grid.exists() or grid.with_suffix(".npy").exists() else set())

    def note_change(self, step: int, key: str, before: object, after: object) -> None:
        """Append a line to changes.jsonl: from that step on, a value of the recipe is another one."""
        self._append(self.path / CHANGES, {"step": step, "key": key, "was": before, "is": after})

    def forget_after(self, step: int) -> int:
        """Drop the records of steps that a resumed run takes again; returns how many lines were damaged."""
        records, damaged = read_records(self.metrics)
        kept = [record for record in records if record["step"] <= step]
        if records or damaged:
            write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))
        return damaged


def _taken(lock: int) -> bool:
    """Try to take a lock; True if another process has it."""
    for wait in (0.0, 0.2):  # `toolkit runs` holds it for an instant to see who does
        time.sleep(wait)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            continue
        except OSError:
            return False  # a file system without locks, as some clusters have: better unguarded than unusable
    return True


def environment(plugins: Mapping[str, str]) -> dict[str, Any]:
    """Versions, plugins, machine, command and git state."""
    packages = ("torch", "diffusers", "accelerate", "safetensors", "datasets", "numpy", "diffusion-toolkit")
    return {
        "command": sys.argv,
        "directory": str(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "plugins": dict(plugins),
        "git": git_state(),
    }


def git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether tracked files differ; None outside a repository.

    Files are compared with a configuration of ours: the repository's own, a stranger's perhaps, can name
    commands that git then runs (core.fsmonitor, filters, transports).
    """

    def git(*arguments: str, **environment: str) -> str:
        return subprocess.run(
            ("git", "--no-optional-locks", *arguments),
            capture_output=True, text=True, check=True, timeout=10,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", **environment},
        ).stdout.strip()  # fmt: skip

    try:
        asked = ("rev-parse", "HEAD", "--show-toplevel", "--git-path", "index", "--git-path", "objects")
        commit, top, *places = git(*asked).splitlines()
        index, objects = (os.path.abspath(place) for place in places)
        with tempfile.TemporaryDirectory() as own:
            Path(own, "refs").mkdir()
            Path(own, "HEAD").write_text(f"{commit}\n")
            changes = git(
                "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all",
                GIT_DIR=own, GIT_WORK_TREE=top, GIT_INDEX_FILE=index, GIT_OBJECT_DIRECTORY=objects,
            )  # fmt: skip
        return {"commit": commit, "changed": bool(changes)}
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _foreign(names: list[str]) -> list[str]:
    """The names that show that a folder is not a run's; none in a run's folder or an empty one."""
    if {"recipe.toml", "run.json"}.issubset(names):
        return []
    # A run that was cut off at its very start has the lock and some of a run's own files.
    return [name for name in names if LOCK not in names or name not in (*FILES, *FOLDERS)]
