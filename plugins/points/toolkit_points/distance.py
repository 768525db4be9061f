"""Wasserstein distances of sets on a line, and their mean over directions."""

import torch
from torch import Tensor


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int, p: int, seed: int) -> float:
    """(mean over random directions of W_p^p)^(1/p) of sets (n, d) and (m, d)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, x.shape[1], generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    powers = [wasserstein_power(x @ one, y @ one, p) for one in directions]
    return float(torch.stack(powers).mean() ** (1 / p))


def wasserstein_power(x: Tensor, y: Tensor, p: int) -> Tensor:
    """W_p^p of numbers (n,) and (m,): the integral over q in [0, 1] of |x_(q) - y_(q)|^p, exactly.

    Both quantile functions are constant between multiples of 1/n and of 1/m; positions count in 1/(n m).
    """
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    apart = (x.double().sort().values[starts // m] - y.double().sort().values[starts // n]).abs()
    power: Tensor = ((ends - starts) * apart**p).sum() / (n * m)
    return power
