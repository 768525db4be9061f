"""Runs for test_processes.py, started once for each number of processes; it leaves run folders.

    torchrun --nproc_per_node 2 process_runs.py FOLDER NAME BATCH

For each recipe in FOLDER: `whole`, 6 steps without a break; `resumed`, 3 steps, then resumed to 6; `half`, 3
steps. A `half` that is already there, of another number of processes, is resumed to 6 instead. Two processes
also go on from one `resumed` with another micro-batch.
"""

import os
import sys
from pathlib import Path

import torch

from toolkit.__main__ import leave
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.loop import train


def main(folder: Path, name: str, batch: str) -> None:
    loaded = plugins.load()
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")  # one group for all runs: it can be formed only once

    def run(recipe: Path, out: Path, end: int, *more: str, resume: bool = False) -> None:
        options = [f"run.batch_size={batch}", f"run.steps={end}", f"run.out={out}", "samples.num=3", *more]
        resolved = resolve(read_layers(recipe, options), loaded.registry)
        changes = [option.partition("=")[0] for option in more]
        train(resolved, loaded, resume=resume, changes=changes)

    for recipe in sorted(folder.glob("*.toml")):
        runs, half = folder / name / recipe.stem, folder / "half" / recipe.stem
        run(recipe, runs / "whole", 6)
        run(recipe, runs / "resumed", 3)
        run(recipe, runs / "resumed", 6, resume=True)
        if name == "two":
            run(recipe, half, 3)
        if (name, recipe.stem) == ("two", "ddpm"):
            run(recipe, runs / "resumed", 7, "run.micro_batch_size=2", resume=True)
        if name == "one":
            run(recipe, half, 6, resume=True)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    leave(0)
