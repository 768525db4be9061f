"""What an extractor's Frechet distance says of real pictures that are changed in known ways.

    python benchmarks/changed_pictures.py ddpm_cifar --features efficientnet_lite [--num 2000]

The first test images, changed, against as many training images. A distance that is of use is smallest for the
images as they are and grows with each change.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit import DataSource
from toolkit.evaluation.evaluate import evaluate, read_protocol, real_examples
from toolkit.registry import load as plugins

Change = Callable[[Tensor], Tensor]  # of images (n, C, H, W) in [0, 1]


class Changed(DataSource):
    """Test images, of some classes only, changed."""

    num_classes = None

    def __init__(self, source: DataSource, num: int, change: Change, classes: int | None = None) -> None:
        images, labels = source.read(torch.arange(min(len(source), num if classes is None else 3 * num)))
        if classes is not None:
            assert labels is not None
            images = images[labels < classes]
        self._images = images[:num]
        if len(self._images) < num:
            raise SystemExit(f"{num} images of {classes or 'all'} classes: there are {len(self._images)}")
        self.image_shape = source.image_shape
        self._change = change

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Tensor) -> tuple[Tensor, None]:
        changed = self._change(self._images[indices].float() / 255)
        return (changed * 255).round().clamp(0, 255).to(torch.uint8), None


def noisy(std: float) -> Change:
    """Noise of this deviation, where black to white is 1."""
    generator = torch.Generator().manual_seed(0)
    return lambda x: x + std * torch.randn(x.shape, generator=generator)


def blurred(x: Tensor) -> Tensor:
    """Means of 3 x 3 pixels."""
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a recipe, whose data is taken")
    parser.add_argument("--features", default="efficientnet_lite")
    parser.add_argument("--metrics", default="fid")
    parser.add_argument("--num", type=int, default=2_000, help="images of each side")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    chosen = parser.parse_args()

    stated = [f"images.num={chosen.num}", f"images.real={chosen.num}", f"features.type={chosen.features}"]
    protocol = read_protocol(
        chosen.data, chosen.metrics.split(","), [*stated, *chosen.overrides], plugins.load().registry
    )
    test, _ = real_examples(protocol, "held_out")
    half = (test.num_classes or 0) // 2
    cases: dict[str, tuple[Change, int | None]] = {
        "as they are": (lambda x: x, None),
        "blurred": (blurred, None),
        "noise of 0.05": (noisy(0.05), None),
        "noise of 0.2": (noisy(0.2), None),
        **({"half of the classes": (lambda x: x, half)} if half else {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for name, (change, classes) in cases.items():
            start = time.process_time()
            subject = Changed(test, chosen.num, change, classes)
            values: dict[str, float] = {}
            for scored in evaluate(
                subject, protocol, Path(folder), device=torch.device("cpu"), split="train"
            ):
                values |= scored.values
            seconds = time.process_time() - start
            print(json.dumps({"change": name, **values, "seconds": round(seconds, 1)}), flush=True)


if __name__ == "__main__":
    main()
