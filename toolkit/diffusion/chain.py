"""Paths of T discrete steps: DDPM's chains, whole or respaced to some of their timesteps.

    alpha_t = sqrt(abar_t),   sigma_t = sqrt(1 - abar_t),   abar_t = prod_{s <= t} (1 - beta_s)

`t` is diffusers' index, 0..T-1 on the original chain, also after respacing; t = -1 is clean data.
"""

import copy
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Literal, Self, get_args, overload

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.schedule import NoiseSchedule, Scale, Steps, Time
from toolkit.registry.signature import Positive

Above = Annotated[float, Field(gt=0)]
Spacing = Literal["leading", "linspace", "trailing", "strided", "ddim"]


class Chain(NoiseSchedule):
    """The variance-preserving chain of `betas` (T,), or its restriction to the kept `timesteps`.

    The tables are float64 tensors of length T on the CPU, NaN off the kept rows, named as in diffusers and in
    the papers: `betas`, `alphas_cumprod`, `alphas_cumprod_prev`, `posterior_variance`,
    `posterior_log_variance_clipped`, `posterior_mean_coef1` (of x_0), `posterior_mean_coef2` (of x_t).
    It is not a module: `.to(bfloat16)` would round the tables.

    Args:
        betas: (T,) variances of the forward steps, each in (0, 1].

    Raises:
        ValueError: if a beta is not in (0, 1].
    """

    clean = -1
    discrete = True

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
        self.noisiest = int(kept[-1])

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
        self._tables = {
            "alpha": torch.cat([one, self.alphas_cumprod.sqrt()]),
            "sigma": torch.cat([zero, (1 - self.alphas_cumprod).sqrt()]),
        }
        levels = zip(*(self._tables[name].tolist() for name in ("alpha", "sigma")), strict=True)
        self._numbers = dict(enumerate(levels, start=-1))
        self._on_device = {torch.device("cpu"): self._tables}

    def _spread(self, kept_rows: Tensor) -> Tensor:
        table = torch.full((self.num_train_timesteps,), math.nan, dtype=torch.float64)
        table[self.timesteps] = kept_rows
        return table

    def _row(self, name: str, t: Tensor) -> Tensor:
        """Rows t of a table, on the device of t."""
        if t.device not in self._on_device:
            self._on_device[t.device] = {key: table.to(t.device) for key, table in self._tables.items()}
        # Not table[t + 1], where t = -2 would wrap around to the last row.
        return self._on_device[t.device][name].index_select(0, t.flatten() + 1).view(t.shape)

    def alpha(self, t: Tensor) -> Tensor:
        return self._row("alpha", t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._row("sigma", t)

    @overload
    def _levels(self, t: float) -> tuple[float, float]: ...
    @overload
    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def _levels(self, t: Time) -> tuple[Scale, Scale]:
        return super()._levels(t) if isinstance(t, Tensor) else self._numbers[int(t)]

    def grid(self, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        if spacing not in (None, *get_args(Spacing)):
            known = ", ".join(map(repr, get_args(Spacing)))
            raise ValueError(f"spacing must be one of {known} on a chain, not {spacing!r}")
        if n is None:
            kept = self.timesteps
        else:
            kept = kept_timesteps(self.num_train_timesteps, n, spacing or "leading")  # type: ignore[arg-type]
            self._refuse_dropped(kept)
        return (*reversed(kept.tolist()), self.clean)

    def previous(self, t: Tensor) -> Tensor:
        """The kept timestep just below each t, (B,) int64; -1 for the first."""
        kept = self.timesteps.to(t.device)
        return torch.cat([kept.new_tensor([-1]), kept])[torch.searchsorted(kept, t)]

    def respaced(self, times: Sequence[float]) -> "Chain":
        return self.respace([int(t) for t in reversed(times) if t != self.clean])

    def respace(self, timesteps: Sequence[int] | Tensor) -> Self:
        """The chain that visits only `timesteps` (original indices): new_beta_i = 1 - abar_i / abar_{i-1}.

        Raises:
            ValueError: unless the timesteps are kept ones, at least one, in strictly ascending order.
        """
        kept = torch.as_tensor(timesteps, dtype=torch.int64)
        if not len(kept) or not bool((kept.diff() > 0).all()):
            raise ValueError(f"timesteps to keep must ascend, got {kept.tolist()[:8]}")
        self._refuse_dropped(kept)
        abar = self._alphas_cumprod_all[kept]
        previous = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        # Where every step is kept, the betas stay as given: deriving them again would cost digits.
        same = len(kept) == len(self.timesteps)
        respaced = copy.copy(self)
        respaced._set_tables(
            self._alphas_cumprod_all, kept, self.betas[kept] if same else 1 - abar / previous
        )
        return respaced

    def _refuse_dropped(self, kept: Tensor) -> None:
        if not bool(torch.isin(kept, self.timesteps).all()):
            raise ValueError(
                f"timesteps to keep must be among the {len(self.timesteps)} of this schedule, got "
                f"{kept.tolist()[:8]}"
            )


def kept_timesteps(num_train_timesteps: int, num_inference_steps: Steps, spacing: Spacing) -> Tensor:
    """The original indices (n,) that a sampler visits on a chain of length T, ascending int64.

    Spacings of diffusers: "leading", multiples of T // n from 0; "linspace", n evenly spaced points from 0 to
    T-1, rounded; "trailing", down from T-1 in steps of T / n. Spacings of Nichol & Dhariwal (2021):
    "strided", from 0 to T-1 in steps of (T-1) / (n-1), summed and then rounded (a point halfway between two
    timesteps may round to the other one than in "linspace"); "ddim", the multiples from 0 of the smallest
    whole number that has exactly n of them below T.

    A list of numbers divides the chain into as many sections of equal length (any remainder goes to the
    first ones, one timestep each), and every section is spaced as a chain of its own.

    Raises:
        ValueError: if a number is not between 1 and the length of its section, if the list is empty, or if no
            whole number has exactly n multiples ("ddim").
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
        # By numpy, as diffusers: torch's linspace rounds 138 of the 1000 values of n differently at T = 1000.
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


def linear(num_train_timesteps: Positive, beta_start: float, beta_end: float) -> Chain:
    """Betas that rise linearly (Ho et al. 2020 take T = 1000, from 1e-4 to 0.02).

    Args:
        num_train_timesteps: T, the length of the chain.
        beta_start: the first beta.
        beta_end: the last beta.

    Raises:
        ValueError: if a beta is not in (0, 1].
    """
    return Chain(torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64))


def listed_betas(betas: list[float]) -> Chain:
    """A chain of the betas listed, one for each step.

    Args:
        betas: the variance of each forward step, in (0, 1].
    """
    return Chain(betas)


def vp_sde(
    num_train_timesteps: Positive,
    beta_min: Above = 0.1,
    beta_max: Above = 20.0,
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
) -> Chain:
    """The continuous variance-preserving process (Song et al. 2021), visited at T + 1 points.

        A(s) = exp(-(beta_max - beta_min) s^2 / 2 - beta_min s),   s_i = epsilon + (1 - epsilon) i / T
        beta_t = 1 - A(s_{t+1}) / A(s_t),                          t = 0, ..., T - 1     (Xiao et al. 2022)

    Because of the ratio the point s = epsilon is clean data: abar_t = A(s_{t+1}) / A(epsilon).

    Args:
        num_train_timesteps: T, the length of the chain; the paper takes 2 or 4.
        beta_min: noise rate at s = 0.
        beta_max: noise rate at s = 1.
        epsilon: the point of the continuous process that counts as clean.
    """
    s = torch.linspace(epsilon, 1, num_train_timesteps + 1, dtype=torch.float64)
    log_abar = -(beta_max - beta_min) / 2 * s**2 - beta_min * s
    return Chain(-torch.expm1(log_abar.diff()))
