"""The few, large noise steps of DDGAN."""

from typing import Annotated

import torch
from pydantic import Field

from toolkit import NoiseSchedule

Rate = Annotated[float, Field(gt=0)]


def vp_sde(
    num_train_timesteps: Annotated[int, Field(ge=1)],
    beta_min: Rate = 0.1,
    beta_max: Rate = 20.0,
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
) -> NoiseSchedule:
    """The continuous variance-preserving process (Song et al. 2021), visited at T + 1 points.

        A(s) = exp(-(beta_max - beta_min) s^2 / 2 - beta_min s),   s_i = epsilon + (1 - epsilon) i / T
        beta_t = 1 - A(s_{t+1}) / A(s_t),                          t = 0, ..., T - 1     (Xiao et al. 2022)

    The ratio makes the point s = epsilon clean data: abar_t = A(s_{t+1}) / A(epsilon).

    Args:
        num_train_timesteps: T, the length of the chain; the paper takes 2 or 4.
        beta_min: noise rate at s = 0.
        beta_max: noise rate at s = 1.
        epsilon: the point of the continuous process that counts as clean.
    """
    s = torch.linspace(epsilon, 1, num_train_timesteps + 1, dtype=torch.float64)
    log_abar = -(beta_max - beta_min) / 2 * s**2 - beta_min * s
    return NoiseSchedule(-torch.expm1(log_abar.diff()))
