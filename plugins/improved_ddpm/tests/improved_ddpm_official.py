"""The authors' UNet by the names in its checkpoints: what shapes it has, and what it computes.

Written from the layout, apart from the importer: functions of a state dict.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]


def layer(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def residual(name: str, into: int, out: int, time: int, scale_shift: bool) -> Shapes:
    shapes = {
        **layer(f"{name}.in_layers.0", into), **layer(f"{name}.in_layers.2", out, into, 3, 3),
        **layer(f"{name}.emb_layers.1", out * (1 + scale_shift), time),
        **layer(f"{name}.out_layers.0", out), **layer(f"{name}.out_layers.3", out, out, 3, 3),
    }  # fmt: skip
    return shapes if into == out else shapes | layer(f"{name}.skip_connection", out, into, 1, 1)


def attention(name: str, width: int) -> Shapes:
    qkv, out = layer(f"{name}.qkv", 3 * width, width, 1), layer(f"{name}.proj_out", width, width, 1)
    return {**layer(f"{name}.norm", width), **qkv, **out}


def official_shapes(
    width: int,
    multiples: tuple[int, ...],
    layers: int,
    attend: tuple[int, ...],
    *,
    channels: int = 3,
    learned: bool = True,
    scale_shift: bool = True,
    classes: int | None = None,
) -> Shapes:
    """Names and shapes of a checkpoint; `attend` are the levels with attention."""
    time = 4 * width
    shapes = {**layer("time_embed.0", time, width), **layer("time_embed.2", time, time)}
    shapes |= {} if classes is None else {"label_emb.weight": (classes, time)}
    shapes |= layer("input_blocks.0.0", width, channels, 3, 3)
    left, h, i = [width], width, 1
    for level, multiple in enumerate(multiples):
        for _ in range(layers):
            shapes |= residual(f"input_blocks.{i}.0", h, multiple * width, time, scale_shift)
            h = multiple * width
            shapes |= attention(f"input_blocks.{i}.1", h) if level in attend else {}
            left.append(h)
            i += 1
        if level < len(multiples) - 1:
            shapes |= layer(f"input_blocks.{i}.0.op", h, h, 3, 3)
            left.append(h)
            i += 1
    shapes |= residual("middle_block.0", h, h, time, scale_shift)
    shapes |= attention("middle_block.1", h)
    shapes |= residual("middle_block.2", h, h, time, scale_shift)
    i = 0
    for level, multiple in reversed(list(enumerate(multiples))):
        for number in range(layers + 1):
            shapes |= residual(f"output_blocks.{i}.0", h + left.pop(), multiple * width, time, scale_shift)
            h = multiple * width
            shapes |= attention(f"output_blocks.{i}.1", h) if level in attend else {}
            if level and number == layers:
                shapes |= layer(f"output_blocks.{i}.{1 + (level in attend)}.conv", h, h, 3, 3)
            i += 1
    out = channels * (1 + learned)
    return {**shapes, **layer("out.0", h), **layer("out.2", out, width, 3, 3)}


def random_state(shapes: Shapes) -> dict[str, Tensor]:
    """Weights under which activations neither vanish nor grow."""
    return {
        name: torch.randn(shape) / math.sqrt(math.prod(shape[1:])) if len(shape) > 1
        else torch.randn(shape) * 0.1 + ("layers.0.weight" in name or "norm.weight" in name)
        for name, shape in shapes.items()
    }  # fmt: skip


class Official:
    """What the authors' UNet computes with these weights."""

    def __init__(self, state: Mapping[str, Tensor], heads: int) -> None:
        self.state, self.heads = state, heads
        self.width = state["input_blocks.0.0.weight"].shape[0]

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(self.width // 2) / (self.width // 2))
        time = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
        time = self.linear("time_embed.2", F.silu(time))
        if label is not None:
            time = time + self.state["label_emb.weight"][label]
        states = []
        for name in self.blocks("input_blocks"):
            x = self.block(name, x, time)
            states.append(x)
        for part in ("middle_block.0", "middle_block.1", "middle_block.2"):
            x = self.part(part, x, time)
        for name in self.blocks("output_blocks"):
            x = self.block(name, torch.cat([x, states.pop()], 1), time)
        return self.conv("out.2", F.silu(self.norm("out.0", x)), padding=1)

    def blocks(self, kind: str) -> Iterator[str]:
        numbers = {int(name.split(".")[1]) for name in self.state if name.startswith(kind)}
        return (f"{kind}.{number}" for number in range(len(numbers)))

    def block(self, name: str, x: Tensor, time: Tensor) -> Tensor:
        for number in range(3):
            if any(key.startswith(f"{name}.{number}.") for key in self.state):
                x = self.part(f"{name}.{number}", x, time)
        return x

    def part(self, name: str, x: Tensor, time: Tensor) -> Tensor:
        if f"{name}.op.weight" in self.state:
            return self.conv(f"{name}.op", x, stride=2, padding=1)
        if f"{name}.conv.weight" in self.state:
            return self.conv(f"{name}.conv", F.interpolate(x, scale_factor=2.0), padding=1)
        if f"{name}.qkv.weight" in self.state:
            return x + self.attend(name, x)
        if f"{name}.weight" in self.state:
            return self.conv(name, x, padding=1)
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x)), padding=1)
        told = self.linear(f"{name}.emb_layers.1", F.silu(time))[:, :, None, None]
        if told.shape[1] == h.shape[1]:
            h = self.norm(f"{name}.out_layers.0", h + told)
        else:
            scale, shift = told.chunk(2, 1)
            h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        h = self.conv(f"{name}.out_layers.3", F.silu(h), padding=1)
        skip = f"{name}.skip_connection"
        return h + (self.conv(skip, x) if f"{skip}.weight" in self.state else x)

    def attend(self, name: str, x: Tensor) -> Tensor:
        """Of the channels of qkv, each head's queries come first, then its keys and its values."""
        flat = self.norm(f"{name}.norm", x).flatten(2)
        qkv = F.conv1d(flat, self.state[f"{name}.qkv.weight"], self.state[f"{name}.qkv.bias"])
        out = []
        for head in qkv.chunk(self.heads, 1):
            q, k, v = head.chunk(3, 1)
            weights = (torch.einsum("bct,bcs->bts", q, k) / math.sqrt(q.shape[1])).softmax(-1)
            out.append(torch.einsum("bts,bcs->bct", weights, v))
        last = self.state[f"{name}.proj_out.weight"], self.state[f"{name}.proj_out.bias"]
        return F.conv1d(torch.cat(out, 1), *last).view_as(x)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"])
