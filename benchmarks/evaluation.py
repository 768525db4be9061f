"""How long features and arithmetic of image metrics take, sampling aside, and how much memory.

    toolkit train classifier_mnist
    python benchmarks/evaluation.py classifier_mnist --set features.path=runs/classifier_mnist

As many held-out examples of the recipe's data, with noise, are compared with training examples. Features are
computed afresh.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from toolkit import DataSource
from toolkit.evaluation.evaluate import evaluate, read_protocol, real_examples
from toolkit.registry import load as plugins


class Noisy(DataSource):
    """Examples of a source with noise; the source is gone through again if it is too short."""

    num_classes = None

    def __init__(self, source: DataSource, length: int) -> None:
        self.source, self.length, self.image_shape = source, length, source.image_shape

    def __len__(self) -> int:
        return self.length

    def read(self, indices: Tensor) -> tuple[Tensor, None]:
        images = self.source.read(indices % len(self.source))[0].float()
        generator = torch.Generator().manual_seed(int(indices[0]))
        noise = 20 * torch.randn(images.shape, generator=generator)
        return (images + noise).round().clamp(0, 255).to(torch.uint8), None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a recipe, whose data is taken")
    parser.add_argument("--metrics", default="fid,is,kid,precision,recall")
    parser.add_argument("--features", default="classifier")
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    chosen = parser.parse_args()

    stated = [f"images.num={chosen.num}", f"images.real={chosen.num}", f"features.type={chosen.features}"]
    protocol = read_protocol(
        chosen.data, chosen.metrics.split(","), [*stated, *chosen.overrides], plugins.load().registry
    )
    subject = Noisy(real_examples(protocol, None)[0], chosen.num)
    marks: dict[str, float] = {}

    def told(what: str, done: int, total: int) -> None:
        marks[what] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        before, start = memory(), time.perf_counter()
        last = start
        scores = evaluate(
            subject, protocol, Path(folder), device=torch.device("cpu"), split="train", progress=told
        )
        for scored in scores:
            features, marks = max(marks.values(), default=last), {}
            print(f"{'features':<12} {features - last:6.1f} s") if features > last else None
            name, value = next(iter(scored.values.items()))
            print(f"{scored.metric:<12} {time.perf_counter() - features:6.1f} s   {name} {value:.6g}")
            last = time.perf_counter()
    print(f"{'together':<12} {last - start:6.1f} s on {torch.get_num_threads()} threads")
    print(f"{'memory':<12} {memory():,.0f} MiB at most, {before:,.0f} before")


def memory() -> float:
    """The most that this process has had so far, in MiB (on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
