"""The order of examples, and which are mirrored: pure functions of (seed, position)."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from toolkit.randomness import position_seed


def hashes(seed: int, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """64 random bits for each of the counters start, ..., start + count - 1.

    SplitMix64 (Steele et al. 2014). It is a bijection, so no value occurs twice; and it is written out here,
    because the generators of torch and numpy may change with their versions.
    """
    counters = np.arange(start, start + count, dtype=np.uint64)
    z = np.uint64(seed) + counters * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def permutation(seed: int, n: int) -> Tensor:
    """The numbers 0, ..., n - 1 in an order that the seed determines; int64 (n,)."""
    return torch.from_numpy(hashes(seed, 0, n).argsort())


class Order:
    """An endless sequence of n examples; position p is in epoch p // n, which has each of them once."""

    def __init__(self, n: int, seed: int, device: torch.device) -> None:
        self.n = n
        self.seed = seed
        self.device = device
        self._epoch = lru_cache(maxsize=3)(self._shuffle)  # a batch may straddle two, reading ahead a third

    def rows(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """The example at each of these positions, int64 (count,), and whether it is mirrored, bool."""
        parts = [
            (shuffled[rows], mirrored[rows])
            for epoch, rows in self._spans(start, count)
            for shuffled, mirrored in [self._epoch(epoch)]
        ]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([shuffled for shuffled, _ in parts]), torch.cat([mirrored for _, mirrored in parts])

    def _spans(self, start: int, count: int) -> Iterator[tuple[int, slice]]:
        """The epochs that the positions fall in, and the rows of each."""
        end = start + count
        while start < end:
            epoch, first = divmod(start, self.n)
            last = min(first + end - start, self.n)
            yield epoch, slice(first, last)
            start += last - first

    def _shuffle(self, epoch: int) -> tuple[Tensor, Tensor]:
        mirrored = hashes(position_seed(self.seed, "mirror"), epoch * self.n, self.n) >> np.uint64(63)
        shuffled = permutation(position_seed(self.seed, "epoch", epoch), self.n)
        return shuffled.to(self.device), torch.from_numpy(mirrored.astype(bool)).to(self.device)
