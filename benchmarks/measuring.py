"""What benchmarks of several models share: how one is timed and scored, and what is kept of that."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from toolkit import Pipeline
from toolkit.evaluation.evaluate import Split, evaluate, read_protocol
from toolkit.registry import load as plugins

BATCH = 64


def seconds(pipeline: Pipeline, n: int = BATCH) -> float:
    """Processor time of sampling once, in batches of 64."""
    start = time.process_time()
    list(pipeline.sample(n, batch_size=BATCH))
    return time.process_time() - start


def scores(
    pipeline: Pipeline, recipe: str, stated: Mapping[str, Any], out: Path, split: Split | None = None
) -> dict[str, float]:
    """Frechet distance, precision and recall of a classifier's features.

    Args:
        pipeline: what is scored.
        recipe: whose [data] its samples are compared with.
        stated: keys of the protocol: `images.num`, `images.real`, `features.path`, the data's.
        out: where samples are kept.
        split: of the data; None takes the held-out one.
    """
    flags = ["features.type=classifier", *(f"{key}={value}" for key, value in stated.items())]
    protocol = read_protocol(recipe, ["fid", "precision", "recall"], flags, plugins.load().registry)
    values: dict[str, float] = {}
    for scored in evaluate(pipeline, protocol, out, device=torch.device("cpu"), split=split):
        values |= {name.split("_")[0]: value for name, value in scored.values.items()}
    return values


def kept(path: Path, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a file says, or what is computed and then written to it."""
    if not path.exists():
        path.write_text(json.dumps(compute(), indent=1))
    return json.loads(path.read_text())  # type: ignore[no-any-return]
