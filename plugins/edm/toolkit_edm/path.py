"""Paths whose time is the standard deviation of the noise."""

import torch

from toolkit import Continuous


def refuse_unless_time_is_sigma(schedule: Continuous, what: str) -> None:
    """Refuse a path that scales the data or counts time otherwise, for constructors.

    Raises:
        ValueError: unless alpha = 1 and sigma = t at the noisiest time.
    """
    t = torch.tensor(schedule.noisiest, dtype=torch.float64, device="cpu")  # also under the meta device
    if float(schedule.alpha(t)) != 1 or float(schedule.sigma(t)) != schedule.noisiest:
        raise ValueError(f'{what} is for a schedule whose time is sigma, such as "edm"')
