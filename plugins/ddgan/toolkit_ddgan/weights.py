"""The initial weights of the published networks."""

from torch import nn

NEARLY_ZERO = 1e-5  # gain of layers that end a branch: blocks begin as the identity, the generator at 0


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every convolution and linear layer of `module`."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            scale(layer)


def scale(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> None:
    """Xavier-uniform weights of this gain and zero biases."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
