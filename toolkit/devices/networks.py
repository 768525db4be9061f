"""How a network uses a device: compiled, or with activations that are computed again."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Compile = bool | Literal["max-autotune", "cudagraphs"]

MODES = {True: None, "max-autotune": "max-autotune", "cudagraphs": "reduce-overhead"}  # torch's names


def compile_network(network: nn.Module, how: Compile) -> None:
    """Compile a network in place: torch.compile(network) would put a prefix on every key of its state."""
    network.compile(mode=MODES[how])


def blocks(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The name and module of each block: the elements of its outermost lists that have parts of their own.

    An element that holds such lists itself, as a level of a UNet holds its residual blocks, is no block: they
    are.
    """
    for name, child in network.named_children():
        if not isinstance(child, nn.ModuleList | nn.Sequential):
            yield from blocks(child, f"{prefix}{name}.")
            continue
        for number, element in child.named_children():
            place = f"{prefix}{name}.{number}"
            if any(
                isinstance(part, nn.ModuleList) and any(map(_has_parts, part)) for part in element.children()
            ):
                yield from blocks(element, f"{place}.")
            elif _has_parts(element):
                yield place, element


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def recompute_activations(network: nn.Module) -> None:
    """Keep the inputs of blocks only; backward computes what is within a block again (Chen et al. 2016).

    Gradients have the same bits: dropout draws the same numbers again. To be called after the network was
    copied: a copy would compute with the blocks of the original.

    Raises:
        ValueError: if the network has no blocks, or one has state that a forward pass may change.
    """
    found = dict(blocks(network))
    if not found:
        raise ValueError("has no blocks: no list of modules that have parts of their own")
    for place, block in found.items():
        state = block.state_dict().keys()
        for name, buffer in block.named_buffers():
            if buffer.is_floating_point() and name in state:
                raise ValueError(
                    f"has a buffer {place}.{name}, which a second forward pass would change again (batch "
                    "normalisation, spectral norm); constants are registered with persistent=False"
                )
    for block in found.values():
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return call
