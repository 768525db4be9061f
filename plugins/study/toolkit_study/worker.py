"""The work of a study in a process of its own: training one run, scoring it in one way, or
timing steps of several.

    python -m toolkit_study.worker TASK.json

Its input stays open as long as the study runs; when that ends, by whatever, the worker stops as by SIGTERM,
so that nothing is left that nobody waits for.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from toolkit import Pipeline, evaluate, load, read_recipe, step_seconds, train
from toolkit.commands import read_run, scores_of, write_json

BATCH = 64  # samples at once, when the speed is measured
PATIENCE = 120  # seconds
ENOUGH = 1.0  # seconds of a draw after which its speed is known


def main(path: Path) -> None:
    threading.Thread(target=_stop_with_the_study, daemon=True).start()
    work(json.loads(path.read_text()))


def work(task: Mapping[str, Any]) -> None:
    """Do what a task says; its results are files.

    Raises:
        ToolkitError: if it cannot be done.
        KeyboardInterrupt: if it was stopped; what it had is saved.
    """
    if task["kind"] == "train":
        recipe = Path(task["recipe"])
        wait_for(recipe.parents[1] / recipe.stem)
        train(recipe, resume="auto")
    elif task["kind"] == "time":
        recipes = {name: read_recipe(path) for name, path in task["recipes"].items()}
        write_json(
            Path(task["result"]), {"digest": task["digest"], "seconds": step_seconds(recipes, task["turns"])}
        )
    else:
        score(task)


def wait_for(run: Path) -> None:
    """Wait while a worker of a study that was killed still saves the run."""
    deadline = time.monotonic() + PATIENCE
    while (run / "run.json").is_file() and read_run(run).status == "running" and time.monotonic() < deadline:
        time.sleep(0.5)


def _stop_with_the_study() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock this thread would hold to the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def score(task: Mapping[str, Any]) -> None:
    """Score a run in one way, measure its speed, and write both to `task["result"]`."""
    run, out = Path(task["run"]), Path(task["out"])
    for other in (out / "scores").glob("*.json"):  # by metrics that the study asked for before
        other.unlink()
    pipeline = load(run, device=task["device"])
    for part in ("start", "sampler", "guidance"):
        if part in task["parts"]:
            pipeline = getattr(pipeline, f"with_{part}")(**task["parts"][part])
    evaluate(
        pipeline, list(task["protocol"]["metrics"]), values(task["protocol"]), device=task["device"],
        data=run / "recipe.toml", split=task["split"], out=out / "scores",
    )  # fmt: skip
    scores = scores_of(out)
    for one in scores:
        one.write(run / "scores")  # where `toolkit compare` and `toolkit report` look
    rate, how = speed(pipeline)
    write_json(
        Path(task["result"]),
        {
            "digest": task["digest"],
            "samples": f"scores/{out.name}/scores",
            "scores": [one.model_dump(mode="json") for one in scores],
            "network_calls": pipeline.calls,
            "start_calls": pipeline.start.calls,
            "samples_per_second": rate,
            "speed": how,
        },
    )


def values(protocol: dict[str, Any]) -> dict[str, Any]:
    """The protocol as `evaluate` takes it: by dotted key."""
    metrics = {f"metrics.{name}": table for name, table in protocol["metrics"].items()}
    return {**{name: protocol[name] for name in ("images", "features") if name in protocol}, **metrics}


def speed(pipeline: Pipeline) -> tuple[float, str]:
    """Samples a second in batches of 64, the best of three draws if they are short; and by which clock."""
    cpu = pipeline.device.type == "cpu"
    clock = time.process_time if cpu else time.perf_counter

    def once() -> float:
        start = clock()
        list(pipeline.sample(BATCH, batch_size=BATCH))
        if not cpu:
            torch.accelerator.synchronize(pipeline.device)
        return clock() - start

    took = [once()]
    while len(took) < 3 and took[-1] < ENOUGH:
        took.append(once())
    where = "processor time" if cpu else f"wall time on {torch.accelerator.current_accelerator()}"
    return BATCH / max(min(took), 1e-9), f"{where}, {torch.get_num_threads()} threads, batches of {BATCH}"


if __name__ == "__main__":
    from toolkit.commands import ToolkitError

    try:
        main(Path(sys.argv[1]))
    except ToolkitError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stopped:
        sys.exit(f"stopped: {stopped}")
