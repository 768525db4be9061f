"""The times at which students are called, and at which distributions are compared."""

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit import Chain, NoiseSchedule

POINTS = 1000  # of the grid on a continuous path that times are drawn from (Yin et al. 2024 take as many)


def student_times(schedule: NoiseSchedule, times: Sequence[float] | None) -> tuple[float, ...]:
    """The times, descending, at which a student is called; by default the noisiest alone.

    Raises:
        ValueError: unless they descend and are on the path.
    """
    if times is None:
        return (schedule.noisiest,)
    listed = [int(t) if schedule.discrete and t == int(t) else t for t in times]
    if not listed or any(s >= t for t, s in zip(listed, listed[1:], strict=False)):
        raise ValueError(f"times must be one or more, and descend, not {listed}")
    for t in listed:
        known = t in schedule.timesteps if isinstance(schedule, Chain) else True
        if not (schedule.clean < t <= schedule.noisiest and known):
            kind = "timesteps" if schedule.discrete else "times"
            raise ValueError(f"times: {t:g} is none of the {kind} of this path, up to {schedule.noisiest:g}")
    return tuple(listed)


def inner_times(schedule: NoiseSchedule, low: float, high: float) -> Tensor:
    """The times between these shares of the path, ascending: int64 on a chain, else float32.

    A chain has its timesteps; a continuous path a grid of 1000 times, which on EDM's path is Karras'.

    Raises:
        ValueError: if there is none.
    """
    grid = schedule.grid(None if schedule.discrete else POINTS, None)[:-1][::-1]
    kept = [t for i, t in enumerate(grid) if low <= (i + 0.5) / len(grid) <= high]
    if not kept:
        raise ValueError(f"low {low:g} and high {high:g} leave none of the {len(grid)} times of this path")
    return torch.tensor(kept, dtype=torch.int64 if schedule.discrete else torch.float32)


def at(schedule: NoiseSchedule, t: float, x: Tensor) -> Tensor:
    """The time t for each row of x (B, ...): (B,), as networks on this path are given times."""
    dtype = torch.int64 if schedule.discrete else torch.float32
    return torch.full((len(x),), t, dtype=dtype, device=x.device)
