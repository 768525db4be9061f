"""The forward process q(x_t | x_0) and its posterior.

    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I),   abar_t = prod_{s <= t} (1 - beta_s)

`t` is diffusers' index, 0..T-1 on the original chain, also after respacing; t = -1 is clean data.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from toolkit.options import Positive

if TYPE_CHECKING:  # importing diffusers takes seconds, and a schedule seldom needs it
    from diffusers import DDPMScheduler

Spacing = Literal["leading", "linspace", "trailing", "strided", "ddim"]


class NoiseSchedule:
    """The variance-preserving chain of `betas` (T,), or what is left of it on the kept `timesteps`.

    The tables are float64 tensors of length T, NaN off the kept rows, named as in diffusers and in the
    papers: `betas`, `alphas_cumprod`, `alphas_cumprod_prev`, `posterior_variance`,
    `posterior_log_variance_clipped`, `posterior_mean_coef1` (of x_0), `posterior_mean_coef2` (of x_t).
    It is no module: the tables have to survive `.to(bfloat16)`. The methods use float32 copies, one set a
    device.

    Args:
        betas: (T,) variances of the forward steps, each in (0, 1].

    Raises:
        ValueError: if a beta is not in (0, 1].
    """

    def __init__(self, betas: Tensor | Sequence[float]) -> None:
        table = torch.as_tensor(betas, dtype=torch.float64, device="cpu").clone()
        if table.ndim != 1 or not len(table) or not bool(((table > 0) & (table <= 1)).all()):
            raise ValueError("betas must be a list of numbers in (0, 1]")
        self._set_tables(torch.cumprod(1 - table, 0), torch.arange(len(table)), table)

    def _set_tables(self, alphas_cumprod: Tensor, kept: Tensor, betas: Tensor) -> None:
        """Fill the tables from abar on all T rows and the betas of the kept ones (Ho et al. 2020, eq. 7)."""
        self._alphas_cumprod_all = alphas_cumprod
        self.num_train_timesteps = len(alphas_cumprod)
        self.timesteps = kept  # ascending original indices, int64

        abar = alphas_cumprod[kept]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        variance = betas * (1 - previous) / (1 - abar)
        # The first variance is 0. Its logarithm is never used for noise, only as one end of a learned
        # variance, and there the published tables repeat the second one (Nichol & Dhariwal 2021).
        tiny = torch.full((1,), 1e-20, dtype=torch.float64)
        clipped = torch.cat([variance[1:2] if len(kept) > 1 else tiny, variance[1:]]).clamp(min=1e-20)

        self.betas = self._spread(betas)
        self.alphas_cumprod = self._spread(abar)
        self.alphas_cumprod_prev = self._spread(previous)
        self.posterior_variance = self._spread(variance)
        self.posterior_log_variance_clipped = self._spread(clipped.log())
        self.posterior_mean_coef1 = self._spread(betas * previous.sqrt() / (1 - abar))
        self.posterior_mean_coef2 = self._spread((1 - betas).sqrt() * (1 - previous) / (1 - abar))

        # Row t + 1 belongs to t, so that row 0 is clean data and no negative index can wrap around.
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        self._rows = {
            "signal": torch.cat([one, self.alphas_cumprod.sqrt()]),
            "sigma": torch.cat([zero, (1 - self.alphas_cumprod).sqrt()]),
            "step_signal": torch.cat([one, (1 - self.betas).sqrt()]),
            "step_sigma": torch.cat([zero, self.betas.sqrt()]),
            "coef1": torch.cat([one, self.posterior_mean_coef1]),
            "coef2": torch.cat([zero, self.posterior_mean_coef2]),
            "log_variance": torch.cat([zero, self.posterior_log_variance_clipped]),
            "std": torch.cat([zero, self.posterior_variance.sqrt()]),
            "log_beta": torch.cat([zero, self.betas.log()]),
        }
        self._on_device: dict[torch.device, dict[str, Tensor]] = {}

    def _spread(self, kept_rows: Tensor) -> Tensor:
        table = torch.full((self.num_train_timesteps,), math.nan, dtype=torch.float64)
        table[self.timesteps] = kept_rows
        return table

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Row `t` of a table in float32, shaped to multiply `like` (B, ...)."""
        if t.device not in self._on_device:
            self._on_device[t.device] = {key: row.float().to(t.device) for key, row in self._rows.items()}
        row = self._on_device[t.device][name].index_select(0, t + 1)
        return row.view(-1, *[1] * (like.ndim - 1))

    def signal(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(abar_t) for t (B,), shaped to multiply `like` (B, ...)."""
        return self._at("signal", t, like)

    def sigma(self, t: Tensor, like: Tensor) -> Tensor:
        """sqrt(1 - abar_t) for t (B,), shaped to multiply `like` (B, ...)."""
        return self._at("sigma", t, like)

    def diffuse(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t ~ q(x_t | x_0) from x0 (B, ...), t (B,) int64 in -1..T-1 and noise ~ N(0, I) (B, ...).

        t = -1 gives x0 itself. Indices outside the chain raise; those dropped by respacing give NaN.
        """
        return self.signal(t, x0) * x0 + self.sigma(t, x0) * noise

    def advance(self, x_s: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """One forward step, x_t ~ q(x_t | x_s): s is the kept timestep before t, -1 before the first."""
        return self._at("step_signal", t, x_s) * x_s + self._at("step_sigma", t, x_s) * noise

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, ...) and log variance (B, 1, ...) of q(x_s | x_t, x_0), s the kept timestep before t.

        At the first kept timestep the mean is x0 and the true variance 0; the log variance returned there is
        that of the second (see `posterior_log_variance_clipped`): whoever adds noise leaves that row out, as
        `sample_posterior` does.
        """
        mean = self._at("coef1", t, x_t) * x0 + self._at("coef2", t, x_t) * x_t
        return mean, self._at("log_variance", t, x_t)

    def sample_posterior(self, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_s ~ q(x_s | x_t, x_0); x0 itself where t is the first kept timestep, bit for bit."""
        mean, _ = self.posterior(x0, x_t, t)
        first = (t == int(self.timesteps[0])).view(-1, *[1] * (x_t.ndim - 1))
        return torch.where(first, x0, mean + self._at("std", t, x_t) * noise)

    def learned_log_variance(self, fraction: Tensor, t: Tensor) -> Tensor:
        """fraction log beta_t + (1 - fraction) log posterior variance (Nichol & Dhariwal 2021, eq. 15).

        `fraction` is (B, ...) in [0, 1], as in `Prediction.variance_fraction`.
        """
        log_beta, log_posterior = self._at("log_beta", t, fraction), self._at("log_variance", t, fraction)
        return fraction * log_beta + (1 - fraction) * log_posterior

    def respace(self, timesteps: Sequence[int] | Tensor) -> "NoiseSchedule":
        """The chain that visits only `timesteps` (original indices): new_beta_i = 1 - abar_i / abar_{i-1}.

        Raises:
            ValueError: if the timesteps are not a non-empty, strictly ascending choice of the kept ones.
        """
        kept = torch.as_tensor(timesteps, dtype=torch.int64)
        known = torch.isin(kept, self.timesteps)
        if not len(kept) or not bool((kept.diff() > 0).all()) or not bool(known.all()):
            raise ValueError(
                f"timesteps to keep must ascend and be among the {len(self.timesteps)} of this schedule, "
                f"got {kept.tolist()[:8]}"
            )
        abar = self._alphas_cumprod_all[kept]
        respaced = NoiseSchedule.__new__(NoiseSchedule)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        # Where every step is kept the betas stay the stated ones: deriving them again costs digits.
        same = len(kept) == len(self.timesteps)
        betas = self.betas[kept] if same else 1 - abar / previous
        respaced._set_tables(self._alphas_cumprod_all, kept, betas)
        return respaced

    def to_scheduler(self, **config: Any) -> "DDPMScheduler":
        """diffusers' DDPMScheduler of the whole chain; `config` is passed on (`variance_type`, ...).

        Raises:
            ValueError: for a respaced chain: there the scheduler's `set_timesteps` says what is kept.
        """
        if len(self.timesteps) != self.num_train_timesteps:
            raise ValueError("a respaced schedule has no scheduler: take that of the whole chain")
        from diffusers import DDPMScheduler

        options = {"clip_sample": False, **config}
        return DDPMScheduler(self.num_train_timesteps, trained_betas=self.betas.tolist(), **options)


def kept_timesteps(
    num_train_timesteps: int, num_inference_steps: int | Sequence[int], spacing: Spacing
) -> Tensor:
    """The original indices that a sampler visits, ascending int64: n of a chain of length T.

    As diffusers spaces them: "leading", multiples of T // n from 0; "linspace", n rounded steps from 0 to
    T-1; "trailing", down from T-1 in steps of T / n. As Nichol & Dhariwal (2021) space them: "strided", from
    0 to T-1 in steps of (T-1) / (n-1), added up and then rounded, which where a step ends halfway between
    two timesteps may choose the other one than "linspace"; "ddim", multiples of the smallest whole number of
    which there are exactly n below T.

    Several numbers divide the chain into as many sections of equal length (what is left over goes to the
    first ones, a timestep each), and every section is spaced as a chain of its own.

    Raises:
        ValueError: if a number is not from 1 to the length of its section, if there is none, or if no whole
            number has n multiples in it ("ddim").
    """
    counts = [num_inference_steps] if isinstance(num_inference_steps, int) else list(num_inference_steps)
    if not counts:
        raise ValueError("num_inference_steps must be a number, or one for each section of the chain, not []")
    length, left = divmod(num_train_timesteps, len(counts))
    sections, start = [], 0
    for i, n in enumerate(counts):
        total = length + (i < left)
        whole = "the chain" if len(counts) == 1 else f"section {i + 1} of {len(counts)}"
        if not 1 <= n <= total:
            raise ValueError(f"num_inference_steps must be from 1 to {total}, the length of {whole}, not {n}")
        sections.append(start + _spaced(total, n, spacing))
        start += total
    return torch.cat(sections)


def _spaced(total: int, n: int, spacing: Spacing) -> Tensor:
    if spacing == "leading":
        return torch.arange(n) * (total // n)
    if spacing == "linspace":
        # By numpy, as diffusers: torch's linspace rounds otherwise for 138 of the 1000 n of T = 1000.
        return torch.from_numpy(np.linspace(0, total - 1, n).round()).long()
    if spacing == "trailing":
        return torch.from_numpy(np.arange(total, 0, -total / n)[:n].round()).flip(0).long() - 1
    if spacing == "strided":
        stride = (total - 1) / max(n - 1, 1)
        return torch.tensor([round(place) for place in accumulate([stride] * (n - 1), initial=0.0)])
    step = math.ceil(total / n)  # the smallest with no more than n multiples
    multiples = torch.arange(0, total, step)
    if len(multiples) != n:
        raise ValueError(
            f'spacing "ddim" finds no whole stride for {n} of {total} timesteps: '
            f"the nearest numbers that have one are {len(multiples)} and {math.ceil(total / (step - 1))}"
        )
    return multiples


def linear(num_train_timesteps: Positive, beta_start: float, beta_end: float) -> NoiseSchedule:
    """Betas rise linearly (Ho et al. 2020, who take T = 1000 from 1e-4 to 0.02).

    Args:
        num_train_timesteps: T, the length of the chain.
        beta_start: the first beta.
        beta_end: the last beta.

    Raises:
        ValueError: if a beta is not in (0, 1].
    """
    return NoiseSchedule(torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64))


def stated_betas(betas: list[float]) -> NoiseSchedule:
    """Betas as they are listed.

    Args:
        betas: the variance of each forward step, in (0, 1].
    """
    return NoiseSchedule(betas)
