"""Limits on what a user's values may build: an option that counts layers takes 10**6 as it takes 6."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LAYERS = 50_000  # parameters and modules; a UNet with 64 layers at each of 6 levels has 25,000


class TooLarge(Exception):
    """A network that would take minutes to build, or more memory than this machine has."""


@contextmanager
def limited() -> Iterator[None]:
    """Stop what is built inside at the layer that is one too many, before its memory is used.

    Raises:
        TooLarge: in the constructor that goes too far.
    """
    torch = sys.modules.get("torch")
    if torch is None:  # then nothing that is built has layers
        yield
        return
    # Half, because a copy is made when weights are loaded or averaged, or gradients are computed.
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    layers, size = 0, 0

    def count(module: object, name: str, added: Any) -> None:
        nonlocal layers, size
        layers += 1
        if isinstance(added, torch.Tensor) and added.device.type == "cpu":
            size += added.numel() * added.element_size()
        if layers > LAYERS:
            raise TooLarge(f"has more than {LAYERS:,} layers")
        if size > half:
            raise TooLarge(f"needs more than {half / 2**30:.3g} GiB, half of this machine's memory")

    hooks = torch.nn.modules.module
    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
