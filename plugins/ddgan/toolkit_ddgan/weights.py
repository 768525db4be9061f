"""The initial weights of the published networks: uniform, of variance gain^2 / fan, and zero biases.

The authors have two laws. In the generator's convolutions, attention and time embedding, fan is the mean of
fan_in and fan_out (Xavier). In both discriminators, and in all of the generator that z passes through, it is
fan_out: the helper that makes those layers calls its fan an average, and returns fan_out.
"""

from math import sqrt
from typing import Literal

from torch import nn

Fan = Literal["mean", "out"]
NEARLY_ZERO = 1e-5  # gain of layers that end a branch: blocks begin as the identity, the generator at 0


def initialise(module: nn.Module, fan: Fan = "mean") -> None:
    """Weights of gain 1 and zero biases in every convolution and linear layer of `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            scale(layer, fan=fan)


def scale(layer: nn.Conv2d | nn.Linear, gain: float = 1.0, fan: Fan = "mean") -> None:
    """Weights of this gain and zero biases."""
    if fan == "mean":
        nn.init.xavier_uniform_(layer.weight, gain)
    else:
        bound = gain * sqrt(3 / layer.weight[:, 0].numel())
        nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
