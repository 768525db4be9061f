"""Paths in continuous time, with derivatives for samplers that follow the ordinary differential equation."""

import math
from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.schedule import NoiseSchedule, Scale, Steps, Time, shaped

Above = Annotated[float, Field(gt=0)]
DEFAULT_STEPS = 50  # of a sampler when no number is given: our choice


class Continuous(NoiseSchedule):
    """A path over real times from `clean` to `noisiest`, by default 0 and 1.

    A path of your own defines three formulas: `alpha`, `sigma` and `derivatives`.
    """

    clean: float = 0.0
    noisiest: float = 1.0

    @abstractmethod
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt at float64 times t; each float64, with the shape and device of t."""

    def rates(self, t: Time, like: Tensor) -> tuple[Scale, Scale]:
        """`derivatives` at t, shaped to multiply `like` (B, ...)."""
        if isinstance(t, Tensor):
            alpha, sigma = self.derivatives(t.double())
            return shaped(alpha, like), shaped(sigma, like)
        alpha, sigma = self.derivatives(torch.tensor(t, dtype=torch.float64))
        return float(alpha), float(sigma)

    def grid(self, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        if spacing not in (None, "uniform"):
            raise ValueError(f'spacing must be "uniform" on this path, not {spacing!r}')
        times = torch.linspace(self.noisiest, self.clean, whole(n) + 1, dtype=torch.float64)
        return tuple(times.tolist())


def whole(n: Steps | None) -> int:
    """The number of steps n, `DEFAULT_STEPS` for None; lists of sections are for chains only.

    Raises:
        ValueError: if n is a list.
    """
    if n is None:
        return DEFAULT_STEPS
    if not isinstance(n, int):
        raise ValueError(f"num_inference_steps must be one number on a continuous path, not {list(n)}")
    return n


class RectifiedFlow(Continuous):
    """Straight lines from data to noise: alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)


class Cosine(Continuous):
    """A quarter of a circle: alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Salimans & Ho 2022)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t == 1, 0.0, torch.cos(math.pi / 2 * t))  # exactly 0, which the cosine is not

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -math.pi / 2 * self.sigma(t), math.pi / 2 * self.alpha(t)


class VP(Continuous):
    """The variance-preserving diffusion of Song et al. (2021), d x = -beta/2 x dt + sqrt(beta) dw.

        alpha = exp(-B / 2),   sigma^2 = 1 - exp(-B),   B(t) = beta_min t + (beta_max - beta_min) t^2 / 2

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
    """

    def __init__(self, beta_min: Above = 0.1, beta_max: Above = 20.0) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.beta_min + (self.beta_max - self.beta_min) * t
        alpha = self.alpha(t)
        return -beta / 2 * alpha, beta / 2 * alpha**2 / self.sigma(t)


class EDM(Continuous):
    """Noise added to unscaled data: alpha = 1, sigma = t, so that time is sigma (Karras et al. 2022).

    The n times of a grid are (max^(1/rho) + i / (n - 1) (min^(1/rho) - max^(1/rho)))^rho, and then 0.

    Args:
        sigma_min: the lowest noise level at which a network is called.
        sigma_max: the noise level that samplers start from.
        rho: how densely the grid covers low noise levels; 1 spaces it evenly.
    """

    def __init__(self, sigma_min: Above = 0.002, sigma_max: Above = 80.0, rho: Above = 7.0) -> None:
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min {sigma_min:g} must be below sigma_max {sigma_max:g}")
        self.sigma_min, self.rho = sigma_min, rho
        self.noisiest = self.prior_std = sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def grid(self, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        if spacing not in (None, "karras"):
            raise ValueError(f'spacing must be "karras" on this path, not {spacing!r}')
        steps = torch.linspace(0, 1, whole(n), dtype=torch.float64)
        largest, least = self.noisiest ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        times = (largest + steps * (least - largest)) ** self.rho
        return (self.noisiest, *times.tolist()[1:], self.clean)
