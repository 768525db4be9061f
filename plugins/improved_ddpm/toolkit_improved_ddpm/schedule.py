"""The cosine noise schedule."""

import math
from typing import Annotated

import torch
from pydantic import Field

from toolkit import Chain


def cosine_betas(
    num_train_timesteps: Annotated[int, Field(ge=1)],
    offset: Annotated[float, Field(ge=0)] = 0.008,
    max_beta: Annotated[float, Field(gt=0, lt=1)] = 0.999,
) -> Chain:
    """Noise that grows slowly near both ends of the chain (Nichol & Dhariwal 2021, eq. 17).

        beta_t = min(1 - f(t + 1) / f(t), max_beta),   f(t) = cos^2((t / T + offset) / (1 + offset) pi / 2)

    Args:
        num_train_timesteps: T, the length of the chain.
        offset: keeps the first betas from vanishing (s in the paper, whose value makes the standard deviation
            of the first noise a little less than the distance of two pixel values).
        max_beta: no beta is larger; without a limit the last one would be 1.
    """
    u = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    f = ((u + offset) / (1 + offset) * math.pi / 2).cos().square()
    return Chain((1 - f[1:] / f[:-1]).clamp(max=max_beta))
