"""Checks of noise schedules."""

import torch
from torch import Tensor

from toolkit.diffusion.chain import Chain
from toolkit.diffusion.continuous import Continuous
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.testing.case import Case
from toolkit.testing.requirement import close, require

LEAST_NOISE = 0.99  # of the last sigma, relative to prior_std: samplers start from noise alone
POINTS = 33  # times at which a continuous path is checked


def _times(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Times from the first after clean to the noisiest (K,), ascending, and a 1 for each (K, 1)."""
    if isinstance(schedule, Chain):
        times = schedule.timesteps
    else:
        times = torch.linspace(schedule.clean, schedule.noisiest, POINTS, dtype=torch.float64)[1:]
    return times, torch.ones(len(times), 1)


def _levels(schedule: NoiseSchedule, times: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma (K,) in float64."""
    return schedule.alpha(times).double(), schedule.sigma(times).double()


def check_limits(case: Case) -> None:
    """The path runs from clean data to noise."""
    schedule: NoiseSchedule = case.build()
    times, one = _times(schedule)
    if isinstance(schedule, Chain):
        require(
            torch.equal(times, torch.arange(schedule.num_train_timesteps)),
            "timesteps must be 0..T-1: a component is the whole chain, which samplers walk on a grid",
        )
    alpha, sigma = _levels(schedule, times)
    require(alpha.isfinite().all() and sigma.isfinite().all(), "alpha and sigma must be finite at every t")
    if isinstance(schedule, Chain):
        square = alpha**2 + sigma**2
        require(
            close(square, torch.ones_like(square)),
            "alpha^2 + sigma^2 must be 1: the chain preserves variance",
        )
    last = float(sigma[-1]) / schedule.prior_std
    require(
        last >= LEAST_NOISE,
        f"sigma ends at {last:.4f}, but sampling starts from N(0, I): raise the last betas until it is at "
        f"least {LEAST_NOISE}",
    )
    clean = torch.full_like(times, schedule.clean)
    require(
        torch.equal(schedule.diffuse(one, clean, one), one), f"t = {schedule.clean} must be the data itself"
    )
    number = schedule.diffuse(one[:1], float(times[0]), one[:1])
    require(
        close(number, schedule.diffuse(one[:1], times[:1], one[:1])),
        "a number must mean the same time as a tensor",
    )


def check_snr_falls(case: Case) -> None:
    """The signal-to-noise ratio falls with t."""
    schedule: NoiseSchedule = case.build()
    times, _ = _times(schedule)
    alpha, sigma = _levels(schedule, times)
    rising = ((alpha / sigma).diff() >= 0).nonzero().flatten().tolist()
    require(
        not rising,
        f"the signal-to-noise ratio does not fall from t = {[float(times[i]) for i in rising[:1]]} to the "
        "next: every beta must be above 0, and alphas_cumprod their product",
    )


def check_steps_give_the_marginal(case: Case) -> None:
    """Single steps, one after the other, lead to the distribution that `diffuse` draws from at once."""
    schedule: NoiseSchedule = case.build()
    times, one = _times(schedule)
    zero = torch.zeros_like(one)
    before = torch.cat([torch.full_like(times[:1], schedule.clean), times[:-1]])
    factor = schedule.advance(one, before, times, zero).double().flatten()
    added = schedule.advance(zero, before, times, one).double().flatten() ** 2
    mean, variance = torch.ones(()).double(), torch.zeros(()).double()
    means, variances = [], []
    for scale, noise in zip(factor, added, strict=True):
        mean, variance = mean * scale, variance * scale**2 + noise
        means.append(mean)
        variances.append(variance)
    marginal = schedule.diffuse(one, times, zero).double().flatten()
    spread = schedule.diffuse(zero, times, one).double().flatten() ** 2
    require(
        close(torch.stack(means), marginal) and close(torch.stack(variances), spread),
        "steps by `advance` do not add up to `diffuse`: a path defines alpha and sigma, the rest follows",
    )


def check_posterior_is_bayes(case: Case) -> None:
    """The posterior q(x_s | x_t, x_0) follows by Bayes' rule from a step and the marginal."""
    schedule: NoiseSchedule = case.build()
    times, one = _times(schedule)
    zero = torch.zeros_like(one)
    if len(times) < 2:
        return  # one step leads to x_0 itself
    alphas, sigmas = _levels(schedule, times)
    alpha, spread = alphas[:-1], sigmas[:-1] ** 2
    step = alphas[1:] / alpha  # x_t = step x_s + noise, as the marginals have it
    noise = sigmas[1:] ** 2 - step**2 * spread
    total = spread * step**2 + noise
    of_x0, of_xt = alpha * noise / total, step * spread / total
    s, t = times[:-1], times[1:]
    mean_x0, std = schedule.posterior(one[1:], zero[1:], s, t)
    mean_xt, _ = schedule.posterior(zero[1:], one[1:], s, t)
    require(
        close(mean_x0.double().flatten(), of_x0) and close(mean_xt.double().flatten(), of_xt),
        "the posterior's mean is not that of Bayes' rule: a path defines alpha and sigma only",
    )
    require(
        close(torch.as_tensor(std).double().flatten() ** 2, spread * noise / total, 1e-3),
        "the posterior's variance is not that of Bayes' rule: a path defines alpha and sigma only",
    )


def check_derivatives(case: Case) -> None:
    """On a continuous path, `derivatives` gives those of alpha and sigma."""
    schedule: NoiseSchedule = case.build()
    if not isinstance(schedule, Continuous):
        return
    inner = torch.linspace(schedule.clean, schedule.noisiest, POINTS, dtype=torch.float64)[1:-1]
    h = 1e-6 * schedule.noisiest
    for name, formula, derivative in zip(
        ("alpha", "sigma"), (schedule.alpha, schedule.sigma), schedule.derivatives(inner), strict=True
    ):
        slope = (formula(inner + h) - formula(inner - h)) / (2 * h)
        require(close(derivative, slope), f"derivatives() is not the slope of {name} at every t")


def check_grid(case: Case) -> None:
    """A grid of n descends from the noisiest time, or near it, to `clean` in n steps."""
    schedule: NoiseSchedule = case.build()
    n = min(7, len(schedule.timesteps)) if isinstance(schedule, Chain) else 7
    times = schedule.grid(n, None)
    require(len(times) == n + 1, f"grid({n}) has {len(times)} times: n network calls and `clean`")
    require(times[-1] == schedule.clean, f"a grid ends with {times[-1]}, not with clean = {schedule.clean}")
    require(all(a > b for a, b in zip(times, times[1:], strict=False)), "the times of a grid must descend")
    require(times[0] <= schedule.noisiest, "a grid begins above `noisiest`")


CHECKS = (
    check_limits, check_snr_falls, check_steps_give_the_marginal, check_posterior_is_bayes, check_derivatives,
    check_grid,
)  # fmt: skip
