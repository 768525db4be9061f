"""Tiny runs through the command line in this process, and plugins for a test."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from toolkit.cli import main

# An objective that breaks when told to, and one with a teacher that no turn trains.
PLUGIN = '''
import torch
from toolkit import Batch, Denoiser, Loss, Objective, Registry, Step, Turn, hookimpl

class Brittle(Objective):
    """Squared predictions; from step `at` on the loss or its gradient is not finite.

    Args:
        at: that step.
        what: what breaks.
    """
    roles = {"denoiser": Denoiser}
    samples = "denoiser"

    def __init__(self, at: int, what: str = "loss") -> None:
        super().__init__()
        self.at, self.what = at, what

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("squares", ("denoiser",), self._loss),)

    def _loss(self, batch: Batch, step: Step) -> Loss:
        t = torch.zeros(len(batch.images), dtype=torch.int64)
        loss = step.networks["denoiser"](batch.images, t).noise.square().mean()
        if step.number < self.at:
            return Loss(loss)
        return Loss(loss * float("nan") if self.what == "loss" else (loss * 0).sqrt())

class Taught(Objective):
    """The denoiser imitates a teacher."""
    roles = {"denoiser": Denoiser, "teacher": Denoiser}
    samples = "denoiser"

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("imitate", ("denoiser",), self._loss),)

    def _loss(self, batch: Batch, step: Step) -> Loss:
        t = torch.zeros(len(batch.images), dtype=torch.int64)
        ours, theirs = (step.networks[role](batch.images, t).noise for role in ("denoiser", "teacher"))
        return Loss((ours - theirs).square().mean())

@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "brittle", Brittle)
    registry.add(Objective, "taught", Taught)
'''

OBSERVERS = """
from toolkit import hookimpl
seen = []
@hookimpl
def toolkit_run_started(run):
    seen.append("started")
@hookimpl
def toolkit_step_done(step, logs):
    seen.append(f"step {step}")
@hookimpl
def toolkit_checkpoint_saved(path):
    seen.append(path.name)
@hookimpl
def toolkit_run_ended(run):
    seen.append("ended")
"""


def train(recipe: Path | str, *overrides: str, flags: tuple[str, ...] = ()) -> Result:
    """`toolkit train`, with values set and flags."""
    options = [part for override in overrides for part in ("--set", override)]
    return CliRunner().invoke(main, ["train", str(recipe), *options, *flags])


def finished(recipe: Path | str, *overrides: str, flags: tuple[str, ...] = ()) -> Result:
    """The same, which must go well."""
    result = train(recipe, *overrides, flags=flags)
    assert result.exit_code == 0, result.output
    return result


def resumed(recipe: Path | str, *overrides: str) -> Result:
    return finished(recipe, *overrides, flags=("--resume",))


def refused(result: Result) -> str:
    """The error of a command that the user got wrong: exit code 2, a few lines, no traceback."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert 1 <= len(lines) <= 4 and "Traceback" not in result.output, result.output
    return "\n".join(lines)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the one that says who has last held it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str) -> str:
    """Install a distribution with one plugin in a folder, for one test; returns the name of its module."""
    module = f"module_of_{name}_{folder.name}"  # another one in each test: plugins are loaded once a process
    monkeypatch.syspath_prepend(folder)
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[toolkit]\n{name} = {module}\n")
    return module
