"""The variational bound on the negative log likelihood, term by term, in bits per dimension.

    -log p(x_0) <= prior + sum_t vb_t,    prior = KL(q(x_T | x_0) || N(0, I)),
    vb_t = KL(q(x_s | x_t, x_0) || p(x_s | x_t)),    at the first timestep -log p(x_0 | x_t)

(Nichol & Dhariwal 2021, eq. 4 to 7). s is the kept timestep before t. p(x_s | x_t) is Gaussian; its mean is
that of q(x_s | x_t, x_0) with the estimated x_0. p(x_0 | x_t) is integrated over each of a pixel's levels.
"""

import math
from typing import Literal, final

import torch
from torch import Tensor, nn

from toolkit import Chain, Prediction, RecipeError

HALF_LEVEL = 1 / 255  # half the distance of two of the 256 levels in [-1, 1]
EDGE = 0.999  # beyond lie the outermost levels, which take the tails of the Gaussian
LEAST = 1e-12  # of a probability whose logarithm is taken, as in the authors' code

FixedVariance = Literal["fixed_small", "fixed_large"]


@final
class Bound(nn.Module):
    """The terms of the bound for one chain, of the whole schedule or of a respaced one.

    The variance of p(x_s | x_t) enters as its *excess*: its logarithm minus that of the posterior's variance.
    That is 0 for the lower end of a learned variance, log beta_t - log posterior variance for the upper one.
    The two are nearly equal at most timesteps, so their difference is taken in float64, before the tables
    become float32.
    """

    def __init__(self, schedule: Chain) -> None:
        super().__init__()
        first, posterior = schedule.timesteps[0], schedule.posterior_log_variance_clipped
        span = schedule.betas.log() - posterior
        # At the first timestep beta is far too large: likelihoods are published with the second posterior
        # variance there, whichever variance is fixed (Ho et al. 2020).
        large = span.index_fill(0, first, 0.0)
        tables = {
            "coef1": schedule.posterior_mean_coef1, "log_posterior": posterior,
            "learned": span, "fixed_large": large, "fixed_small": torch.zeros_like(span),
        }  # fmt: skip
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)
        self.schedule = schedule
        self.first, self.steps = int(first), len(schedule.timesteps)
        self._last_signal_squared = float(schedule.alphas_cumprod[schedule.timesteps[-1]])

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        return self.get_buffer(name).index_select(0, t).view(-1, *[1] * (like.ndim - 1))

    def learned_excess(self, prediction: Prediction, t: Tensor) -> Tensor:
        """The excess (B, ...) of the variance that a denoiser learned (eq. 15).

        Raises:
            RecipeError: if it learned none.
        """
        if prediction.variance_fraction is None:
            raise RecipeError(
                "the variational bound is asked for with a learned variance, and this denoiser has none: "
                "set networks.denoiser.learned_variance = true"
            )
        return prediction.variance_fraction * self._at("learned", t, prediction.variance_fraction)

    def fixed_excess(self, variance: FixedVariance, t: Tensor, like: Tensor) -> Tensor:
        """The excess (B, 1, ...) of a fixed variance, to go with `like` (B, ...)."""
        return self._at(variance, t, like)

    def term(self, x0: Tensor, estimate: Tensor, excess: Tensor, t: Tensor) -> Tensor:
        """Bits per dimension (B,) that timestep t (B,) adds to the bound.

        Args:
            x0: clean images (B, ...) on the 256 levels of [-1, 1].
            estimate: x_0 as predicted from x_t (B, ...).
            excess: of the model's log variance, (B, ...) or (B, 1, ...).
            t: kept timesteps, (B,) int64.
        """
        log_posterior = self._at("log_posterior", t, x0)
        # Both means have the same share of x_t, so that they differ by that of x_0 alone.
        distance = (self._at("coef1", t, x0) * (x0 - estimate)).square() * (-log_posterior - excess).exp()
        divergence = (excess + torch.expm1(-excess) + distance) / 2
        decoded = -discretised_log_likelihood(x0, estimate, (log_posterior + excess) / 2)
        nats = torch.where((t == self.first).view(-1, *[1] * (x0.ndim - 1)), decoded, divergence)
        return nats.flatten(1).mean(1) / math.log(2)

    def prior(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)) in bits per dimension (B,): what x_T still shows of x_0."""
        signal_squared = self._last_signal_squared
        nats = (signal_squared * (x0.square() - 1) - math.log1p(-signal_squared)) / 2
        return nats.flatten(1).mean(1) / math.log(2)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Logarithm of the probability that N(mean, std^2) gives each pixel of x, one of 256 levels in [-1, 1].

    The outermost levels take the tails (Ho et al. 2020, eq. 13). The normal distribution function is the
    approximation by tanh that published likelihoods were computed with; the exact one differs by 1e-3 nats.
    """
    scale, offset = (-log_std).exp(), x - mean
    below_upper = approximate_normal_cdf(scale * (offset + HALF_LEVEL))
    below_lower = approximate_normal_cdf(scale * (offset - HALF_LEVEL))
    probability = torch.where(
        x < -EDGE, below_upper, torch.where(x > EDGE, 1 - below_lower, below_upper - below_lower)
    )
    return probability.clamp(min=LEAST).log()


def approximate_normal_cdf(z: Tensor) -> Tensor:
    """The standard normal distribution function to about 2e-4 (Page 1977)."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
