"""Whether a run that is killed at any moment goes on to the same bits, and no killed command loses anything.

    python benchmarks/kill_and_resume.py [--trials 30] [--seed 0]
    python benchmarks/kill_and_resume.py --commands 100 [--json docs/results/killed_commands.json]

Each trial is a run of a small recipe that learns its timesteps and averages its weights, killed by SIGKILL
one to three times and resumed each time. Half of the kills come at a random moment, the other half while a
checkpoint is being written. At its end the last checkpoint (weights, averages, optimizer and objective), the
saved pipeline and the recorded losses must be those of a run that nobody killed, bit for bit. Processes are
forked from this one, which has imported everything: imports take longer than the run.

With --commands, each trial ends one of the commands that write, by one of the signals that ask to stop or by
SIGKILL, at a random moment. It is beside a finished run, a saved pipeline and a set of images, which the
commands replace. Afterwards each of these must be whole, as it was or as the command leaves it; another
command must be able to read the pipeline; the same command again must do its work, with the same result; and
no temporary file may be left.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from toolkit.cli import main as toolkit
from toolkit.files import REPLACED, TEMPORARY
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.build import build

UNFINISHED = (TEMPORARY, REPLACED)
TIMES = ("images_per_second", "seconds", "processor_seconds")  # in records, another each time
RECIPE = """
[run]
batch_size = 8
micro_batch_size = 4
steps = 16
log_every = 2
[data]
type = "digits"
flip = true
[schedule]
type = "linear"
num_train_timesteps = 10
beta_start = 1e-3
beta_end = 0.5
[objective]
type = "denoising"
[objective.timesteps]
type = "second_moment"
[networks.denoiser]
type = "unet"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
dropout = 0.1
add_attention = false
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
clip_norm = 1.0
[optimizers.denoiser.lr_schedule]
type = "cosine"
steps = 16
[ema.denoiser]
decay = 0.9
[samples]
num = 0
[checkpoints]
every = 2
"""


@dataclass(frozen=True)
class Kill:
    """What a SIGKILL met: the run's time so far, and whether a checkpoint was left half-written."""

    seconds: float
    while_writing: bool


def start(recipe: Path, run: Path) -> int:
    """Train in a process of its own, as somebody would after a kill; returns its id."""
    flags = ["--overwrite"] if (run / "recipe.toml").exists() else []
    if any(run.glob("checkpoints/step-*")):
        flags = ["--resume"]
    return command(run.parent, ["train", str(recipe), "--set", f"run.out={run}", *flags], log_of(run))


def command(folder: Path, words: list[str], log: Path) -> int:
    """Begin a command in a folder, in a process of its own; returns its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        toolkit(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # whatever the parent would do at its own exit is not the child's


def log_of(run: Path) -> Path:
    return run.with_suffix(".log")


def ended(process: int, log: Path) -> bool:
    """Whether it is over; it must have gone well."""
    found, status = os.waitpid(process, os.WNOHANG)
    if found and status:
        raise SystemExit(f"a run failed by itself: {log.read_text()}")
    return bool(found)


def finish(recipe: Path, run: Path) -> float:
    """Let a run come to its end; returns the seconds that it took."""
    before, process = time.monotonic(), start(recipe, run)
    while not ended(process, log_of(run)):
        time.sleep(0.005)
    return time.monotonic() - before


def kill(recipe: Path, run: Path, due: Callable[[float], bool]) -> Kill | None:
    """Start or resume a run and kill it when `due`, which is told the seconds, says so; None if it ended."""
    before, process = time.monotonic(), start(recipe, run)
    while not due(seconds := time.monotonic() - before):
        if ended(process, log_of(run)):
            return None
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status):
        return None
    return Kill(seconds, bool(half_written(run)))


def half_written(run: Path) -> list[str]:
    try:
        return [name for name in os.listdir(run / "checkpoints") if name.startswith(TEMPORARY)]
    except FileNotFoundError:  # not made yet, or just removed by --overwrite
        return []


def moment(run: Path, length: float, chance: random.Random) -> Callable[[float], bool]:
    """When to kill: at a random time, or a random while after the n-th checkpoint is begun."""
    if chance.random() < 0.5:
        at = chance.uniform(0, length)
        return lambda seconds: seconds > at
    count, pause = chance.randint(1, 8), chance.uniform(0, 0.02)
    seen: set[str] = set()

    def due(seconds: float) -> bool:
        seen.update(half_written(run))
        if len(seen) < count:
            return False
        time.sleep(pause)
        return True

    return due


def result(run: Path) -> dict[str, object]:
    """All that training comes to: files by name, and the losses of every record."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = [path for folder in (last, run / "pipeline") for path in folder.rglob("*") if path.is_file()]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [{k: v for k, v in record.items() if k not in TIMES} for record in records]
    return {str(path.relative_to(run)): path.read_bytes() for path in files} | {"losses": losses}


def trial(recipe: Path, run: Path, length: float, chance: random.Random) -> list[Kill]:
    """One run with one to three kills, brought to its end."""
    kills = []
    for _ in range(chance.randint(1, 3)):
        met = kill(recipe, run, moment(run, length, chance))
        if met is None:
            return kills  # it was faster
        kills.append(met)
    finish(recipe, run)
    return kills


# What each command replaces, which is compared, and what it is called with, beside the folder `run`.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "train": ("run", ["train", "recipe.toml", "--set=run.out=run", "--set=run.steps=10", "--resume", "auto"]),
    "sample --save": (
        "saved",
        ["sample", "run", "--num=2", "--save=saved", "--out=grid.png", "--overwrite", "--steps=5"],
    ),
    "sample --out": ("images", ["sample", "run", "--num=8", "--seed=8", "--out=images", "--overwrite"]),
    "evaluate": ("run", ["evaluate", "run", "--metrics=nll", "--out=run/scores"]),
    "report": ("report.html", ["report", "run", "--samples=0"]),
    "cost": ("run", ["cost", "run", "--seconds=0", "--batch-size=1"]),
    "push --dry-run": ("run", ["push", "run", "me/digits", "--dry-run"]),
}
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
VARYING = ("environment.json", "run.json", "metrics.jsonl", ".lock", "README.md", "cost.json", "recipe.toml")


def done(folder: Path, words: list[str]) -> float:
    """Do a command, which must go well; returns the seconds that it took."""
    before, process = time.monotonic(), command(folder, words, log_of(folder))
    while not ended(process, log_of(folder)):
        time.sleep(0.002)
    return time.monotonic() - before


def state(path: Path) -> dict[str, bytes]:
    """The files at a path, except those with times in them."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if checkpoints := sorted(path.glob("checkpoints/step-*")):  # a stop adds one, so that others are kept
        files = [f for f in files if "checkpoints" not in f.parts or checkpoints[-1] in f.parents]
    steady = [f for f in files if f.name not in VARYING and "scores" not in f.parts and f.suffix != ".html"]
    return {str(file.relative_to(path)): file.read_bytes() for file in steady}


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name.startswith(UNFINISHED)]


def struck(folder: Path, name: str, number: int, moment: float, whole: dict[str, dict[str, bytes]]) -> str:
    """End a command by a signal at a moment; what was wrong afterwards, or ""."""
    target, words = COMMANDS[name]
    before = {place: state(folder / place) for place in ("run", "saved", "images")}
    process = command(folder, words, log_of(folder))
    time.sleep(moment)
    os.kill(process, number)
    os.waitpid(process, 0)
    done(folder, ["push", "saved", "me/digits", "--dry-run"])  # another command, which only reads
    for place in ("saved", "images"):
        if state(folder / place) not in (before[place], whole[name] if place == target else before[place]):
            return f"{place} is neither what it was nor what it was to be"
    now = state(folder / "run")
    lost = [file for file in before["run"] if "step-" not in file and file not in now]
    if lost:
        return f"lost: {', '.join(lost)}"
    done(folder, words)
    if state(folder / target) != whole[name]:
        return "the same command again gives something else"
    return f"left: {', '.join(left)}" if (left := leftovers(folder)) else ""


def strike(trials: int, seed: int, temporary: Path) -> list[dict[str, object]]:
    """Trials of all commands and signals in turn, each at a random moment."""
    for module in ("toolkit.evaluation.evaluate", "toolkit_report.page", "toolkit_report.cost", "accelerate"):
        importlib.import_module(module)
    origin = temporary / "origin"
    origin.mkdir()
    (origin / "recipe.toml").write_text(RECIPE.replace("[samples]\nnum = 0", "[samples]\nnum = 4"))
    done(origin, ["train", "recipe.toml", "--set=run.out=run", "--set=run.steps=6"])
    done(origin, ["sample", "run", "--num=2", "--save=saved", "--out=grid.png"])
    done(origin, ["sample", "run", "--num=12", "--out=images"])
    whole, length = {}, {}
    for name, (target, words) in COMMANDS.items():
        folder = temporary / "whole"
        shutil.copytree(origin, folder)
        length[name] = done(folder, words)
        whole[name] = state(folder / target)
        shutil.rmtree(folder)
    results: list[dict[str, object]] = []
    for trial in range(trials):
        name, sent = list(COMMANDS)[trial % len(COMMANDS)], SIGNALS[trial % len(SIGNALS)]
        folder, chance = temporary / f"trial-{trial}", random.Random(f"{seed} {trial}")
        shutil.copytree(origin, folder)
        moment = chance.uniform(0, length[name])
        wrong = struck(folder, name, signal.Signals[sent], moment, whole)
        results.append({"command": name, "signal": sent, "seconds": round(moment, 3), "wrong": wrong})
        print(f"trial {trial:>3}: {name:<14} {sent:<8} after {moment:.2f} s: {wrong or 'well'}", flush=True)
        shutil.rmtree(folder)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, metavar="TRIALS", help="of every command that writes")
    parser.add_argument("--json", type=Path, help="where the trials of --commands are recorded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    same, kills = 0, []
    with tempfile.TemporaryDirectory() as temporary:
        recipe, whole = Path(temporary) / "recipe.toml", Path(temporary) / "unbroken"
        recipe.write_text(RECIPE)
        registry = plugins.load().registry.copy()
        build(resolve(read_layers(recipe), registry), torch.device("cpu"))  # imports what a run needs
        length = finish(recipe, whole)
        if arguments.commands is not None:
            trials = strike(arguments.commands, arguments.seed, Path(temporary))
            well = sum(not trial["wrong"] for trial in trials)
            print(f"{len(trials)} commands struck, {well} of them well")
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(trials, indent=1) + "\n")
            sys.exit(well != len(trials))
        expected = result(whole)
        print(f"unbroken: {length:.2f} s, {len(expected) - 1} files")
        for number in range(arguments.trials):
            run, chance = Path(temporary) / f"trial-{number}", random.Random(f"{arguments.seed} {number}")
            met = trial(recipe, run, length, chance)
            found = result(run)
            differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            left = [path.name for path in run.rglob(f"{TEMPORARY}*")]
            same += not differing and not left
            kills += met
            moments = ", ".join(f"{k.seconds:.2f} s{' (writing)' * k.while_writing}" for k in met)
            told = f"differs: {', '.join(sorted(differing) + left)}" if differing or left else "the same bits"
            print(f"trial {number:>2}: killed after {moments or 'its end'}: {told}", flush=True)
            shutil.rmtree(run)
    writing = sum(kill.while_writing for kill in kills)
    print(
        f"{arguments.trials} trials, {len(kills)} kills, {writing} of them in the middle of a checkpoint: "
        f"{same} of {arguments.trials} ended with the bits of the unbroken run"
    )
    sys.exit(same != arguments.trials)


if __name__ == "__main__":
    main()
