"""InceptionV3 (Szegedy et al. 2015) as TensorFlow's graph of 2015-12-05, by which the literature scores.

It differs from torchvision's in its weights, in pooling within blocks, and in how pictures are resized.
Parameters have the names of torch-fidelity's file of these weights.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit import FeatureExtractor, Features
from toolkit_fidelity.pictures import in_colour, resized
from toolkit_fidelity.weights import identity, load_weights, weights_file

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
PREPARATION = "299x299, bilinear as TensorFlow 1; (x - 128) / 128"
BATCH = 32
Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel] | tuple[str, int, Kernel, int]  # name, channels, kernel, stride
Branch = Sequence[Layer | Sequence[Layer]]  # layers one after the other; several at once are put side by side

DOUBLE: Branch = [("3x3dbl_1", 64, 1), ("3x3dbl_2", 96, 3)]


def block_a(pooled: int) -> list[Branch]:
    return [
        [("1x1", 64, 1)],
        [("5x5_1", 48, 1), ("5x5_2", 64, 5)],
        [*DOUBLE, ("3x3dbl_3", 96, 3)],
        [("_pool", pooled, 1)],
    ]


def block_c(inner: int) -> list[Branch]:
    return [
        [("1x1", 192, 1)],
        [("7x7_1", inner, 1), ("7x7_2", inner, (1, 7)), ("7x7_3", 192, (7, 1))],
        [
            ("7x7dbl_1", inner, 1), ("7x7dbl_2", inner, (7, 1)), ("7x7dbl_3", inner, (1, 7)),
            ("7x7dbl_4", inner, (7, 1)), ("7x7dbl_5", 192, (1, 7)),
        ],
        [("_pool", 192, 1)],
    ]  # fmt: skip


BLOCK_B: list[Branch] = [[("3x3", 384, 3, 2)], [*DOUBLE, ("3x3dbl_3", 96, 3, 2)], []]
BLOCK_D: list[Branch] = [
    [("3x3_1", 192, 1), ("3x3_2", 320, 3, 2)],
    [("7x7x3_1", 192, 1), ("7x7x3_2", 192, (1, 7)), ("7x7x3_3", 192, (7, 1)), ("7x7x3_4", 192, 3, 2)],
    [],
]
BLOCK_E: list[Branch] = [
    [("1x1", 320, 1)],
    [("3x3_1", 384, 1), [("3x3_2a", 384, (1, 3)), ("3x3_2b", 384, (3, 1))]],
    [
        ("3x3dbl_1", 448, 1), ("3x3dbl_2", 384, 3),
        [("3x3dbl_3a", 384, (1, 3)), ("3x3dbl_3b", 384, (3, 1))],
    ],
    [("_pool", 192, 1)],
]  # fmt: skip


class Convolution(nn.Module):
    """A convolution, batch norm and ReLU."""

    def __init__(
        self, width: int, channels: int, kernel: Kernel, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(width, channels, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side; the last one pools first.

    Pooling takes averages, which leave out what is beyond the border, or maxima where the block halves the
    picture. The last block of all takes maxima too, an error of the graph that published scores contain.
    """

    def __init__(self, width: int, branches: list[Branch], last: bool = False) -> None:
        super().__init__()
        self._names: list[list[list[str]]] = []
        self.channels = 0
        for branch in branches:
            inside, names = width, []
            for step in branch:
                layers: Sequence[Layer] = [step] if isinstance(step, tuple) else step
                for layer in layers:
                    self.add_module(f"branch{layer[0]}", Convolution(inside, *layer[1:]))
                inside = sum(layer[1] for layer in layers)
                names.append([f"branch{layer[0]}" for layer in layers])
            self._names.append(names)
            self.channels += inside
        self._halves, self._maxima = not branches[-1], last

    def forward(self, x: Tensor) -> Tensor:
        result = []
        for names in self._names:
            y = self._pooled(x) if names is self._names[-1] else x
            for side_by_side in names:
                y = torch.cat([self.get_submodule(name)(y) for name in side_by_side], dim=1)
            result.append(y)
        return torch.cat(result, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self._halves:
            return F.max_pool2d(x, 3, stride=2)
        if self._maxima:
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionV3(nn.Module):
    """Features (n, 2048), means over places before the last layer, and logits (n, 1008) without its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padded=False)
        blocks = {
            "5b": block_a(32), "5c": block_a(64), "5d": block_a(64), "6a": BLOCK_B, "6b": block_c(128),
            "6c": block_c(160), "6d": block_c(160), "6e": block_c(192), "7a": BLOCK_D, "7b": BLOCK_E,
            "7c": BLOCK_E,
        }  # fmt: skip
        width = 192
        for name, branches in blocks.items():
            block = Block(width, branches, last=name == "7c")
            self.add_module(f"Mixed_{name}", block)
            width = block.channels
        self._blocks = [f"Mixed_{name}" for name in blocks]
        self.fc = nn.Linear(width, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name in self._blocks:
            x = self.get_submodule(name)(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


class Inception(FeatureExtractor):
    """InceptionV3 of 2015, for the FID, KID and IS of the literature: pool3, and logits without the bias.

    Args:
        weights: the file of weights; if none, the one in torch's cache, or else a download.

    Raises:
        DataError: if there are no weights, or not of this network.
    """

    name = "inception"

    def __init__(self, weights: Path | None = None) -> None:
        path = weights_file(weights, URL)
        self._network = InceptionV3()
        load_weights(self._network, path)
        self.identity = identity(path, PREPARATION)

    def extract(self, images: Tensor, device: torch.device) -> Features:
        self._network.to(device)
        found = []
        with torch.inference_mode():
            for batch in in_colour(images).split(BATCH):
                found.append(self._network((resized(batch.to(device).float(), 299) - 128) / 128))
        return Features(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))
