"""Randomness as a function of position, so that nothing has to be saved to repeat it."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def position_seed(*position: object) -> int:
    """A 63-bit seed from a position such as (seed, step, turn, repetition, shard); order and type count."""
    digest = hashlib.blake2b(repr(position).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_default_generators(seed: int, device: torch.device) -> None:
    """Seed torch's own generators of the CPU and of `device`, from which plugins draw (`torch.randn_like`).

    `torch.manual_seed` does the same for every device there is, and takes a hundred times as long.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def generators_for(seed: int, first: int, count: int, device: torch.device) -> list[torch.Generator]:
    """One generator an image: image i is seeded seed + i, whatever batch it is drawn in."""
    return [torch.Generator(device).manual_seed(seed + first + i) for i in range(count)]


def randn(shape: Sequence[int], generators: Sequence[torch.Generator] | None, device: torch.device) -> Tensor:
    """N(0, I) of `shape` (n, ...), row i from `generators[i]`; from torch's own generator if there are none.

    Raises:
        ValueError: if the generators are not one a row.
    """
    if generators is None:
        return torch.randn(*shape, device=device)
    if len(generators) != shape[0]:
        raise ValueError(f"{shape[0]} rows need as many generators, got {len(generators)}")
    drawn = torch.empty(*shape, device=generators[0].device if generators else device)
    for row, generator in zip(drawn, generators, strict=True):
        row.normal_(generator=generator)
    return drawn.to(device)
