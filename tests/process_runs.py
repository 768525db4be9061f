"""Runs of one, two and three processes for test_processes.py; it leaves run folders.

    python process_runs.py FOLDER

With 8 rows, or 12 for three processes, in micro-batches of 4. For each recipe in FOLDER: `whole`, 6 steps
without a break; `resumed`, 3 steps, then resumed to 6. Two processes also train `half` to step 3, from where
one goes on to 6, and go on from one `resumed` with another micro-batch. FOLDER/answers has what
process_checks.py asks one and two of them.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from forks import in_processes, prepare
from process_checks import answered

from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.loop import train


def runs(folder: Path, name: str, batch: int) -> None:
    loaded = plugins.load()

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


def check(folder: Path, name: str) -> None:
    answers = answered()
    if os.environ.get("RANK", "0") == "0":
        (folder / "answers").mkdir(exist_ok=True)
        (folder / "answers" / f"{name}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    prepare(*folder.glob("*.toml"))
    for name, count, batch in (("two", 2, 8), ("one", 1, 8), ("three", 3, 12)):
        in_processes(count, partial(runs, folder, name, batch))
        if name != "three":
            in_processes(count, partial(check, folder, name))
