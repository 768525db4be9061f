"""Runs for test_sharding.py, over two processes in one group; it leaves run folders.

    python sharding_runs.py FOLDER

For each recipe in FOLDER: `whole`, 10 steps replicated, and `parts`, 10 steps sharded, each with a checkpoint
of step 5. Two of DDGAN go on from there, sharded: `resumed` from `parts`, `joined` from `whole`.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from forks import in_processes, prepare
from torch import Tensor

from toolkit.devices.processes import Processes
from toolkit.recipe import Recipe, read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training import checkpoint
from toolkit.training.loop import train
from toolkit.training.session import session

SHARDED = 'run.sharding="fsdp"'
SIZES = ["run.batch_size=32", "run.micro_batch_size=16", "samples.num=2"]  # few calls, which cost most here


def interrupted(run: Path, copied: Path) -> None:
    """Copy a run of 10 steps as if it had been killed after 5."""
    shutil.copytree(run, copied)
    (copied / "run.json").unlink()
    shutil.rmtree(copied / "checkpoints" / "step-0000010")


def main(folder: Path) -> None:
    loaded = plugins.load()
    main_process = torch.distributed.get_rank() == 0

    def run(recipe: Path, name: str, *more: str) -> None:
        out = folder / name / recipe.stem
        options = [*SIZES, "run.log_every=1", "run.steps=10", f"run.out={out}", "checkpoints.every=5", *more]
        resume = name in ("resumed", "joined")
        if resume and main_process:
            interrupted(folder / {"resumed": "parts", "joined": "whole"}[name] / recipe.stem, out)
        train(resolve(read_layers(recipe, options), loaded.registry), loaded, resume=resume)

    for recipe in sorted(folder.glob("*.toml")):
        run(recipe, "whole")
        run(recipe, "parts", SHARDED)
        if recipe.stem == "ddgan":
            run(recipe, "resumed", SHARDED)
            run(recipe, "joined", SHARDED)
        settings = [read_layers(recipe, [*SIZES, "run.steps=1", *more]) for more in ([SHARDED], [])]
        report(folder, *(resolve(layers, loaded.registry) for layers in settings))


def report(folder: Path, parts: Recipe, whole: Recipe) -> None:
    """Write how many numbers each process holds after a step, and whether the first weights are the same."""
    first: list[checkpoint.State] = []
    for recipe in (parts, whole):
        options = recipe.common(("run",))
        with Processes("cpu") as processes, session(recipe, processes, options) as ready:
            training, rank = ready.built.training, processes.rank
            first.append(checkpoint.state_of(training, 0))
            if recipe is whole:
                break
            ready.trainer.step()
            held: list[Tensor] = [p for ema in training.averages.values() for p in ema.network.parameters()]
            for optimizer in training.optimizers.values():
                for p in (p for group in optimizer.param_groups for p in group["params"]):
                    held += [p, p.grad, *(v for v in optimizer.state[p].values() if v.shape == p.shape)]
            here = sum(training.placement.local(tensor).numel() for tensor in held)
    counts = {"all": sum(tensor.numel() for tensor in held), "here": here}
    if rank == 0:
        one, other = ({f"{f}/{n}": t for f, ts in s.tensors.items() for n, t in ts.items()} for s in first)
        counts["alike"] = one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    (folder / f"{parts.name}-{rank}.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    prepare(*folder.glob("*.toml"))
    in_processes(2, partial(main, folder))
