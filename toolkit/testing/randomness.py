"""Checks of which generators a component uses, and a mode in which every draw is the same."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolkit.testing.requirement import require


@contextmanager
def foreign_seed(seed: int) -> Iterator[None]:
    """Seed numpy's and Python's global generators inside; restore them afterwards."""
    before = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


@contextmanager
def without_draws(what: str, help: str, *, torchs: bool = True) -> Iterator[None]:
    """Fail if a global generator is used inside: numpy's, Python's or, with `torchs`, torch's."""
    of_numpy, of_python, of_torch = np.random.get_state(), random.getstate(), torch.get_rng_state()
    yield
    after: Any = np.random.get_state()
    used = {
        "numpy.random": not all(np.array_equal(a, b) for a, b in zip(of_numpy, after, strict=True)),
        "Python's random": of_python != random.getstate(),
        "torch's default generator": torchs and not torch.equal(of_torch, torch.get_rng_state()),
    }
    names = " and ".join(name for name, touched in used.items() if touched)
    require(not names, f"{what} draws from {names}: {help}")


def row_generators(n: int, first: int = 0) -> list[torch.Generator]:
    """One generator per row, seeded by the row's number, `first` the first."""
    return [torch.Generator().manual_seed(1000 + first + i) for i in range(n)]


class EqualDraws(TorchDispatchMode):
    """Inside, every row draws the same: floats are 1/2, integers the middle of their range.

    A loss that is a mean over rows then depends on the rows alone, however they are cut into batches.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and isinstance(result, Tensor):
            if result.is_floating_point() or result.dtype == torch.bool:
                return result.fill_(0.5)
            if func.overloadpacket is torch.ops.aten.randperm:
                return result.copy_(torch.arange(len(result)))
            if func.overloadpacket is torch.ops.aten.multinomial:
                return result.fill_(args[0].shape[-1] // 2)
            bounds = [value for value in args if isinstance(value, int)]
            return result.fill_(sum(bounds) // 2)
        return result
