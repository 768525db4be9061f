"""The numbers of ddgan_vectors.json, and the weights and inputs that they were made from."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from toolkit_ddgan.blocks import PyramidConv, ResidualBlock


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


def generator_modules(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a StyledUNet by their official names, but for the mapping of z, in the official order."""
    units: list[nn.Module] = [
        unet.time_embedding.module.linear_1, unet.time_embedding.module.linear_2, unet.conv_in
    ]  # fmt: skip
    for block in unet.down_blocks:
        level = getattr(block, "level", block)
        units += chain.from_iterable(zip(level.resnets, level.attentions, strict=True))
        if level is not block:
            units += [block.downsample, block.skip_conv]
    units += [unet.mid_block.before, unet.mid_block.attention, unet.mid_block.after]
    for block in unet.up_blocks:
        units += [*block.resnets, block.attention, *([block.upsample] if block.upsample else [])]
    units += [unet.conv_norm_out, unet.conv_out]
    units = [unit for unit in units if not isinstance(unit, nn.Identity)]
    return ((f"all_modules.{i}", unit) for i, unit in enumerate(units))


def generator_parameters(unet: nn.Module) -> dict[str, Tensor]:
    """Our parameters by their official names; transposed where the official ones are."""
    found = {}
    for name, unit in generator_modules(unet):
        match unit:
            case ResidualBlock():
                parts = {
                    "GroupNorm_0.style": unit.norm1.style, "Conv_0": unit.conv1, "Dense_0": unit.time,
                    "GroupNorm_1.style": unit.norm2.style, "Conv_1": unit.conv2, "Conv_2": unit.shortcut,
                }  # fmt: skip
            case Attention():
                projections = (unit.to_q, unit.to_k, unit.to_v, unit.to_out[0])
                for i, projection in enumerate(projections):
                    found[f"{name}.NIN_{i}.W"] = projection.weight.T
                    found[f"{name}.NIN_{i}.b"] = projection.bias
                parts = {"GroupNorm_0": unit.group_norm}
            case PyramidConv():
                parts = {"Conv2d_0": unit.conv}
            case _:
                parts = {"": unit}
        for part, module in parts.items():
            for leaf, parameter in module.named_parameters():
                found[".".join(filter(None, (name, part, leaf)))] = parameter
    for name, parameter in unet.class_embedding.module.named_parameters():
        found[f"z_transform.{name}"] = parameter
    return found


@torch.no_grad()
def fill_generator(unet: nn.Module, names: list[tuple[str, list[int]]]) -> None:
    parameters = generator_parameters(unet)
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
