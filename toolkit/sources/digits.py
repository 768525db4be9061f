"""scikit-learn's bundled digits: the data set that is always there."""

from functools import lru_cache
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from toolkit.data.order import permutation
from toolkit.data.source import DataSource
from toolkit.sources.pictures import Canvas, Fit, Size, height_and_width

HELD_OUT = 360  # of 1,797, about a fifth; which ones is fixed for ever


@final
class Digits(DataSource):
    """The 1,797 handwritten digits of scikit-learn, 8x8 and greyscale, with labels.

    Their 17 levels v = 0, ..., 16 become u = round(255 v / 16), from which v = round(16 u / 255).

    Args:
        size: side of the images in pixels, or [height, width]; 8 if none.
        fit: how they are brought to that size: "crop", "resize", or "pad" with black.
        split: "train" holds out a fixed fifth for measuring, "test" is that fifth, "all" holds out nothing.
    """

    def __init__(
        self,
        size: Size | None = None,
        fit: Fit = "crop",
        split: Literal["train", "test", "all"] = "train",
    ) -> None:
        images, labels = _all(*height_and_width(size or 8), fit)
        shuffled = permutation(0, len(labels))
        chosen = {"train": shuffled[HELD_OUT:], "test": shuffled[:HELD_OUT], "all": shuffled}[split]
        self.images, self.labels = images[chosen], labels[chosen]
        self.image_shape = tuple(images.shape[1:])
        self.num_classes = 10
        self._held_out = (size, fit) if split == "train" else None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.images[indices], self.labels[indices]

    def all_labels(self) -> Tensor:
        return self.labels

    def held_out(self) -> "Digits | None":
        return Digits(*self._held_out, split="test") if self._held_out else None


@lru_cache(maxsize=1)  # a run reads its data and what it holds out, once each to build and to describe them
def _all(height: int, width: int, fit: Fit) -> tuple[Tensor, Tensor]:
    """All digits at a size, uint8 (1797, 1, H, W), and their labels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    canvas = Canvas(channels=1, height=height, width=width, fit=fit, reduces=False)
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = [canvas.draw(Image.fromarray(digit), "a digit") for digit in pixels]
    return torch.stack(images), torch.from_numpy(digits.target).long()
