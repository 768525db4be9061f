"""What every noise schedule keeps."""

import torch
from torch import Tensor

from toolkit.schedule import NoiseSchedule
from toolkit.testing.case import Case
from toolkit.testing.requirement import close, require

LEAST_NOISE = 0.99  # of the last sigma: samplers start from N(0, I)


def _rows(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """All kept t (K,), and a 1 for each (K, 1)."""
    return schedule.timesteps, torch.ones(len(schedule.timesteps), 1)


def check_limits(case: Case) -> None:
    """The chain runs from clean data to noise."""
    schedule: NoiseSchedule = case.build()
    t, one = _rows(schedule)
    require(
        torch.equal(t, torch.arange(schedule.num_train_timesteps)),
        "timesteps must be 0..T-1: a component is the whole chain, which samplers respace",
    )
    signal, sigma = schedule.signal(t, one), schedule.sigma(t, one)
    require(signal.isfinite().all() and sigma.isfinite().all(), "signal and sigma must be finite at every t")
    require(close(signal**2 + sigma**2, one), "signal^2 + sigma^2 must be 1: the chain preserves variance")
    last = float(sigma[-1])
    require(
        last >= LEAST_NOISE,
        f"sigma ends at {last:.4f}, but sampling starts from N(0, I): raise the last betas until it is at "
        f"least {LEAST_NOISE}",
    )
    clean = torch.full_like(t, -1)
    require(torch.equal(schedule.diffuse(one, clean, one), one), "t = -1 must be the clean data itself")


def check_snr_falls(case: Case) -> None:
    """The signal-to-noise ratio falls with t."""
    schedule: NoiseSchedule = case.build()
    abar = schedule.alphas_cumprod[schedule.timesteps]
    rising = (abar.diff() >= 0).nonzero().flatten().tolist()
    require(
        not rising,
        f"the signal-to-noise ratio does not fall from t = {rising[:1]} to the next: every beta must be "
        "above 0, and alphas_cumprod their product",
    )


def check_steps_give_the_marginal(case: Case) -> None:
    """Single steps, one after the other, have the distribution that `diffuse` draws from at once."""
    schedule: NoiseSchedule = case.build()
    t, one = _rows(schedule)
    zero = torch.zeros_like(one)
    factor = schedule.advance(one, t, zero).double().flatten()
    added = schedule.advance(zero, t, one).double().flatten() ** 2
    mean, variance = torch.ones(()).double(), torch.zeros(()).double()
    means, variances = [], []
    for scale, noise in zip(factor, added, strict=True):
        mean, variance = mean * scale, variance * scale**2 + noise
        means.append(mean)
        variances.append(variance)
    marginal = schedule.diffuse(one, t, zero).double().flatten()
    spread = schedule.diffuse(zero, t, one).double().flatten() ** 2
    require(
        close(torch.stack(means), marginal) and close(torch.stack(variances), spread),
        "steps by `advance` do not add up to `diffuse`: alphas_cumprod must be the product of 1 - betas",
    )


def check_posterior_is_bayes(case: Case) -> None:
    """The posterior q(x_s | x_t, x_0) is what Bayes' rule makes of a step and the marginal."""
    schedule: NoiseSchedule = case.build()
    t, one = _rows(schedule)
    zero = torch.zeros_like(one)
    if len(t) < 2:
        return  # one step leads to x_0 itself
    signals, spreads = schedule.signal(t, one).double(), schedule.sigma(t, one).double() ** 2
    signal, spread = signals[:-1], spreads[:-1]
    step = signals[1:] / signal  # x_t = step x_s + noise, as the marginals have it
    noise = spreads[1:] - step**2 * spread
    total = spread * step**2 + noise
    of_x0, of_xt = signal * noise / total, step * spread / total
    mean_x0, log_variance = schedule.posterior(one, zero, t)
    mean_xt, _ = schedule.posterior(zero, one, t)
    require(
        close(mean_x0[1:].double(), of_x0) and close(mean_xt[1:].double(), of_xt),
        "the posterior's mean is not that of Bayes' rule: take the tables that NoiseSchedule makes of betas",
    )
    require(
        close(log_variance[1:].double().exp(), spread * noise / total, 1e-3),
        "the posterior's variance is not that of Bayes' rule: take the tables that NoiseSchedule makes",
    )


CHECKS = (check_limits, check_snr_falls, check_steps_give_the_marginal, check_posterior_is_bayes)
