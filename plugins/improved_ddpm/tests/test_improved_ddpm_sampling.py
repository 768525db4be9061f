"""Sampling with a learned variance, on the whole chain and on a part of it."""

import pytest
import torch
from improved_ddpm_reference import ExactForGaussians
from torch import Tensor

from toolkit import Chain, Denoiser, NoiseSchedule, Prediction, walk
from toolkit.diffusion.samplers import Ancestral
from toolkit_improved_ddpm.schedule import cosine_betas

ROWS = 100_000


class StandardNormal(Denoiser):
    """Exact on data N(0, 1): there the variance of a step is beta, the upper end, on any chain."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        x0 = self.schedule.at(t, x_t)[0] * x_t
        return Prediction(self.schedule, x_t, t, x0=x0, variance_fraction=torch.ones_like(x_t))


def sample(schedule: Chain, denoiser: Denoiser, x: Tensor, steps: int | None) -> Tensor:
    times = schedule.grid(steps, "linspace")
    return walk(Ancestral(schedule, "fixed_small"), denoiser, schedule, x, times)


@pytest.mark.parametrize("steps", [None, 20, 3])
def test_the_learned_variance_is_interpolated_on_the_chain_that_is_visited(steps: int | None) -> None:
    """The last step adds no noise: it takes the mean of x_0 given x_t, of variance abar_t."""
    torch.manual_seed(0)
    schedule = cosine_betas(50)
    x0 = sample(schedule, StandardNormal(schedule), torch.randn(ROWS, 1), steps)
    assert float(x0.var()) == pytest.approx(float(schedule.alphas_cumprod[0]), rel=0.02)


@pytest.mark.parametrize(("learned", "right"), [(True, True), (False, False)])
def test_with_the_exact_variance_few_steps_give_the_variance_of_the_data(learned: bool, right: bool) -> None:
    """The variances of DDPM are exact in the limit of many steps only, and here there are 4."""
    torch.manual_seed(0)
    schedule, std = Chain([0.01, 0.4, 0.7, 0.9]), 0.5
    denoiser = ExactForGaussians(schedule, std, learned=learned)
    x = schedule.diffuse(std * torch.randn(ROWS, 1), torch.full((ROWS,), 3), torch.randn(ROWS, 1))
    x0 = sample(schedule, denoiser, x, None)
    abar = float(schedule.alphas_cumprod[0])
    expected = abar * std**4 / (abar * std**2 + 1 - abar)  # of the mean of x_0 given the first x_t
    assert (float(x0.var()) == pytest.approx(expected, rel=0.02)) == right
