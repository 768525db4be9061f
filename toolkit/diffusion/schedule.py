"""The forward process: a Gaussian path from data to noise, in time units of its own.

    x_t = alpha(t) x_0 + sigma(t) noise,   noise ~ N(0, I)

and for s before t,   x_t = a x_s + b noise,   a = alpha_t / alpha_s,   b^2 = sigma_t^2 - a^2 sigma_s^2.

Time is a number, or a tensor (B,) with one for each row: int64 on a chain of steps, else float32 or float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

Time = float | Tensor
Scale = float | Tensor  # a number for one time; for times (B,) float32, shaped to multiply (B, ...)
Steps = int | Sequence[int]


class NoiseSchedule(ABC):
    """A Gaussian path, given by alpha and sigma.

    Attributes:
        clean: the time of data.
        noisiest: the time from which samplers walk down to `clean`.
        prior_std: standard deviation of the x that samplers draw at `noisiest`.
        discrete: whether times are int64 indices of a chain.
    """

    clean: float
    noisiest: float
    prior_std: float = 1.0
    discrete: bool = False

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the data at times t: float64, with the shape and device of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise at times t: float64, with the shape and device of t."""

    @abstractmethod
    def grid(self, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        """The n times at which a sampler calls a network, descending, then `clean`: n + 1 numbers.

        Args:
            n: how many; on a chain also a list of numbers, one per section. None takes the path's own number.
            spacing: how they are spaced, a name that the path knows; None takes its default.

        Raises:
            ValueError: if the path has no such spacing, or cannot be walked in n steps.
        """

    @property
    def time_is_sigma(self) -> bool:
        """Whether noise is added to unscaled data and time is its standard deviation: alpha = 1, sigma = t.

        Judged at `noisiest`.
        """
        t = torch.tensor(self.noisiest, dtype=torch.float64, device="cpu")  # also under the meta device
        return not self.discrete and float(self.alpha(t)) == 1 and float(self.sigma(t)) == self.noisiest

    def respaced(self, times: Sequence[float]) -> "NoiseSchedule":
        """The path for a loss or a bound that visits only these times; a continuous one stays as it is."""
        return self

    @overload
    def _levels(self, t: float) -> tuple[float, float]: ...
    @overload
    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def _levels(self, t: Time) -> tuple[Scale, Scale]:
        """alpha and sigma in float64."""
        if isinstance(t, Tensor):
            times = t if self.discrete else t.double()
            return self.alpha(times), self.sigma(times)
        time = torch.tensor(t, dtype=torch.int64 if self.discrete else torch.float64)
        return float(self.alpha(time)), float(self.sigma(time))

    def at(self, t: Time, like: Tensor) -> tuple[Scale, Scale]:
        """alpha and sigma at t, shaped to multiply `like` (B, ...)."""
        alpha, sigma = self._levels(t)
        return shaped(alpha, like), shaped(sigma, like)

    def diffuse(self, x0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) from x0 (B, ...), t and noise ~ N(0, I) (B, ...); x0 itself at `clean`."""
        alpha, sigma = self.at(t, x0)
        return alpha * x0 + sigma * noise

    def transition(self, s: Time, t: Time, like: Tensor) -> tuple[Scale, Scale]:
        """The a and b of x_t = a x_s + b noise for s before t, shaped to multiply `like` (B, ...)."""
        a, variance, *_ = self._bridge(s, t)
        return shaped(a, like), shaped(variance**0.5, like)

    def advance(self, x_s: Tensor, s: Time, t: Time, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_s) from x_s (B, ...) and noise ~ N(0, I) (B, ...), for s before t."""
        a, b = self.transition(s, t, x_s)
        return a * x_s + b * noise

    def posterior(self, x0: Tensor, x_t: Tensor, s: Time, t: Time) -> tuple[Tensor, Scale]:
        """Mean (B, ...) and standard deviation of q(x_s | x_t, x_0), for s before t.

            mean = a sigma_s^2 / sigma_t^2 x_t + alpha_s b^2 / sigma_t^2 x_0,   std = sigma_s b / sigma_t

        At s = `clean` they are x0 and 0.
        """
        a, variance, alpha_s, sigma_s, sigma_t = self._bridge(s, t)
        of_x_t, of_x0 = a * sigma_s**2 / sigma_t**2, alpha_s * variance / sigma_t**2
        std = sigma_s * variance**0.5 / sigma_t
        return shaped(of_x0, x_t) * x0 + shaped(of_x_t, x_t) * x_t, shaped(std, x_t)

    def _bridge(self, s: Time, t: Time) -> tuple[Scale, Scale, Scale, Scale, Scale]:
        """a, b^2, alpha_s, sigma_s and sigma_t in float64."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self._levels(s), self._levels(t)
        a = alpha_t / alpha_s
        variance = sigma_t**2 - a**2 * sigma_s**2
        least = variance.clamp(min=0) if isinstance(variance, Tensor) else max(0.0, variance)
        return a, least, alpha_s, sigma_s, sigma_t


def shaped(value: Scale, like: Tensor) -> Scale:
    """One value per row (B,) as float32, shaped to multiply `like` (B, ...); a number stays as it is."""
    return value.float().view(-1, *[1] * (like.ndim - 1)) if isinstance(value, Tensor) else value
