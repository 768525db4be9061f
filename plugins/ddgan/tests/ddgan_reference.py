"""The numbers of ddgan_vectors.json, and the weights and inputs that they were made from."""

import json
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit_ddgan.official import official_parameters


@cache
def vectors() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("ddgan_vectors.json").read_text())


def hashed(stream: int, *shape: int) -> Tensor:
    """Values in [-1, 1) that depend on nothing but their index and the stream."""
    modulus = np.uint64(2**32)
    a = (np.arange(1, prod(shape) + 1, dtype=np.uint64) * np.uint64(2654435761)) % modulus
    a = (a + np.uint64((stream + 1) * 2246822519 % 2**32)) % modulus
    a ^= a >> np.uint64(15)
    a = a * np.uint64(2246822519) % modulus
    a ^= a >> np.uint64(13)
    return torch.from_numpy(2 * a.astype(np.float64) / 2**32 - 1).float().view(shape)


def unit(stream: int, *shape: int) -> Tensor:
    """The same, with variance 1."""
    return hashed(stream, *shape) * 3**0.5


def filled(names: list[tuple[str, list[int]]], gain: float) -> dict[str, Tensor]:
    """The state dict, by official names, that the vectors were made with."""
    state = {}
    for stream, (name, shape) in enumerate(names):
        value = hashed(stream, *shape)
        if len(shape) == 1:
            value *= 0.1
            if name.endswith("style.bias"):
                value[: shape[0] // 2] += 1
            elif name.endswith("weight"):
                value += 1
        else:
            fan_in = shape[0] if name.endswith(".W") else prod(shape[1:])
            value *= gain * (3 / fan_in) ** 0.5
        state[name] = value
    return state


@torch.no_grad()
def fill_generator(unet: nn.Module, names: list[tuple[str, list[int]]]) -> None:
    parameters = official_parameters(unet)
    assert {name: list(p.shape) for name, p in parameters.items()} == {name: shape for name, shape in names}
    for name, value in filled(names, gain=1.0).items():
        parameters[name].copy_(value)


@torch.no_grad()
def fill_discriminator(judge: nn.Module, names: list[tuple[str, list[int]]]) -> None:
    """Official and our parameters come in the same order."""
    state = judge.state_dict()
    assert [list(value.shape) for value in state.values()] == [shape for _, shape in names]
    for ours, value in zip(state.values(), filled(names, gain=1.3).values(), strict=True):
        ours.copy_(value)
