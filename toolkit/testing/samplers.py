"""Checks of samplers, on the path of their case."""

from collections.abc import Sequence

import torch
from torch import Tensor

from toolkit.diffusion.sampler import Sampler, count_calls, walk
from toolkit.testing.case import Case
from toolkit.testing.oracles import COVARIANCE, MEAN, Gaussian
from toolkit.testing.randomness import row_generators, without_draws
from toolkit.testing.requirement import close, require

ROWS = 20_000  # chance then moves a covariance by about 1 %


def _times(case: Case, sampler: Sampler) -> tuple[float, ...]:
    return sampler.grid(case.path(), case.steps, None)


@torch.no_grad()
def _sample(
    case: Case,
    x: Tensor,
    generators: list[torch.Generator] | None,
    sampler: Sampler | None = None,
    times: Sequence[float] | None = None,
) -> Tensor:
    sampler, path = sampler or case.build(), case.path()
    times = _times(case, sampler) if times is None else times
    return walk(sampler, Gaussian(path), path, x, times, generators=generators)


def _noise(case: Case, n: int) -> Tensor:
    noise = torch.randn(n, len(MEAN), generator=torch.Generator().manual_seed(7))
    return case.path().prior_std * noise


def _text(point: Tensor) -> list[float]:
    return [round(value, 3) for value in point.tolist()]


def check_gaussian_is_recovered(case: Case) -> None:
    """With the exact denoiser of a Gaussian it samples that Gaussian: mean and covariance."""
    images = _sample(case, _noise(case, ROWS), None)
    require(images.isfinite().all(), "the samples of an exact denoiser are not finite")
    mean, covariance = images.mean(0), images.T.cov()
    require(
        float((mean - MEAN).norm()) < 0.05,
        f"samples of a Gaussian with mean {_text(MEAN)} have mean {_text(mean)}: compare the mean of a step "
        "with that of schedule.posterior(x0, x_t, s, t)",
    )
    error = float((covariance - COVARIANCE).norm() / COVARIANCE.norm())
    require(
        error < 0.1,
        f"the covariance of samples is off by {error:.0%} of the data's: check how much noise each step "
        "adds, or let the case take more steps",
    )


def check_seed_stable(case: Case) -> None:
    """The same x and generators give the same bits, and no other generator is used."""
    sampler: Sampler = case.build()
    x, times = _noise(case, 4), _times(case, sampler)
    with without_draws("the sampler", "draw by noise(), which is N(0, I) row by row from the generators"):
        first, again = (_sample(case, x, row_generators(4), sampler, times) for _ in range(2))
    require(
        torch.equal(first, again),
        "the same x and generators gave other samples: keep nothing between walks (state belongs in the "
        "closure of stepper()), and draw by noise()",
    )


def check_batch_invariant(case: Case) -> None:
    """Row i depends on x[i] and generators[i] alone, whatever batch it is in."""
    x = _noise(case, 4)
    together = _sample(case, x, row_generators(4))
    alone = torch.cat([_sample(case, x[i : i + 1], row_generators(1, first=i)) for i in range(4)])
    require(
        close(alone, together),
        "a row sampled alone differs from the same row in its batch: draw by noise(), and take no "
        "statistic over rows",
    )


def check_calls(case: Case) -> None:
    """It calls the network at times on the path, always equally often, and not at all on an empty walk."""
    sampler: Sampler = case.build()
    path, x, times = case.path(), _noise(case, 2), _times(case, sampler)
    require(times[-1] == path.clean, f"its grid ends with {times[-1]}, not with clean = {path.clean}")
    denoiser, report = Gaussian(path), list[int]()
    with torch.no_grad():
        walk(sampler, denoiser, path, x, times, generators=row_generators(2), progress=report.append)
    require(len(denoiser.seen) >= 1, "it calls no network")
    require(
        all(path.clean <= t <= path.noisiest * (1 + 1e-6) for t in denoiser.seen),
        f"it calls the network at {max(denoiser.seen)}, which is not on the path",
    )
    calls = count_calls(sampler, path, times, dimensions=1)
    require(
        calls == len(denoiser.seen) == len(report),
        f"a walk on an image of one pixel takes {calls} calls, and one on points {len(denoiser.seen)}: the "
        "number of calls may not depend on the image",
    )
    require(torch.equal(_sample(case, x, row_generators(2), sampler, ()), x), "an empty walk must return x")


CHECKS = (check_gaussian_is_recovered, check_seed_stable, check_batch_invariant, check_calls)
