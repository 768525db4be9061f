"""What every sampler keeps."""

import torch
from torch import Tensor

from toolkit.sampler import Sampler, below
from toolkit.testing.case import Case
from toolkit.testing.oracles import COVARIANCE, MEAN, Gaussian
from toolkit.testing.randomness import row_generators, without_draws
from toolkit.testing.requirement import close, require

HELP = "draw by toolkit.randn(shape, generators, device), row i from generators[i]"
ROWS = 20_000  # at which chance moves a covariance by 1 %


@torch.no_grad()
def _sample(case: Case, x: Tensor, generators: list[torch.Generator] | None) -> Tensor:
    sampler: Sampler = case.build()
    chain = case.chain()
    return sampler.sample(Gaussian(chain), x, chain.num_train_timesteps, generators=generators)


def _noise(n: int) -> Tensor:
    return torch.randn(n, len(MEAN), generator=torch.Generator().manual_seed(7))


def _shown(point: Tensor) -> list[float]:
    return [round(value, 3) for value in point.tolist()]


def check_gaussian_is_recovered(case: Case) -> None:
    """With the exact denoiser of a Gaussian it samples that Gaussian: mean and covariance."""
    images = _sample(case, _noise(ROWS), None)
    require(images.isfinite().all(), "the samples of an exact denoiser are not finite")
    mean, covariance = images.mean(0), images.T.cov()
    require(
        float((mean - MEAN).norm()) < 0.05,
        f"samples of a Gaussian with mean {_shown(MEAN)} have mean {_shown(mean)}: compare the "
        "step's mean with posterior_mean_coef1 x_0 + posterior_mean_coef2 x_t",
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
    chain, x = case.chain(), _noise(4)
    denoiser, start = Gaussian(chain), chain.num_train_timesteps
    with torch.no_grad(), without_draws("the sampler", f"given generators, {HELP}"):
        first, again = (sampler.sample(denoiser, x, start, generators=row_generators(4)) for _ in range(2))
    require(
        torch.equal(first, again),
        f"the same x and generators gave other samples: keep nothing between calls, and {HELP}",
    )


def check_batch_invariant(case: Case) -> None:
    """Row i depends on x[i] and generators[i], whatever batch it is in."""
    x = _noise(4)
    together = _sample(case, x, row_generators(4))
    alone = torch.cat([_sample(case, x[i : i + 1], row_generators(1, first=i)) for i in range(4)])
    require(
        close(alone, together),
        "a row sampled alone is another image than in its batch: draw row i from generators[i], and take no "
        "statistic over rows",
    )


def check_calls(case: Case) -> None:
    """One network call at each of `timesteps` below `start`, descending; none gives x back."""
    sampler: Sampler = case.build()
    chain, x = case.chain(), _noise(2)
    timesteps = sampler.timesteps.tolist()
    require(
        timesteps == sorted(timesteps) and set(timesteps) <= set(chain.timesteps.tolist()),
        "`timesteps` must ascend and be original indices of the chain",
    )
    for start in (chain.num_train_timesteps, chain.num_train_timesteps // 2, 0):
        denoiser = Gaussian(chain)
        told: list[int] = []
        with torch.no_grad():
            out = sampler.sample(denoiser, x, start, generators=row_generators(2), progress=told.append)
        wanted = below(sampler.timesteps, start)
        require(
            denoiser.seen == wanted,
            f"from start = {start} it called the network at {denoiser.seen[:4]}... ({len(denoiser.seen)} "
            f"calls) and not at {wanted[:4]}... ({len(wanted)}): take them from "
            "toolkit.below(self.timesteps, start)",
        )
        require(told == list(range(1, len(wanted) + 1)), "`progress` must be told 1, 2, ... after the calls")
        require(start or torch.equal(out, x), "where no timestep is below `start`, x is given back as it is")


CHECKS = (check_gaussian_is_recovered, check_seed_stable, check_batch_invariant, check_calls)
