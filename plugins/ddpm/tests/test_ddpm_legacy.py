"""The sampler with two errors: that it makes both, and no others."""

import torch
from torch import Tensor

from toolkit import Chain, Denoiser, NoiseSchedule, Prediction, Saved
from toolkit import walk as walk_with
from toolkit.hf.folder import scheduler_of
from toolkit_ddpm.legacy import ClampedAncestral

BETAS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


class Steady(Denoiser):
    """Predicts noise 0.5, and keeps what it was asked about."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.seen: list[Tensor] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append(x_t)
        return Prediction(self.schedule, x_t, t, noise=torch.full_like(x_t, 0.5))


def walk(x: Tensor) -> list[Tensor]:
    """All states of the chain from x: what the network was asked about, and the samples."""
    schedule = Chain(BETAS)
    denoiser = Steady(schedule)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(x))]
    sampler, times = ClampedAncestral(schedule), schedule.grid(None, None)
    samples = walk_with(sampler, denoiser, schedule, x, times, generators=generators)
    return [*denoiser.seen, samples]


def mean(x_t: Tensor, t: int) -> Tensor:
    """Algorithm 2 of Ho et al. (2020), as it is printed."""
    abar = torch.cumprod(1 - BETAS, 0)
    return (x_t - BETAS[t] / (1 - abar[t]).sqrt() * 0.5) / (1 - BETAS[t]).sqrt()


def test_every_state_after_the_first_is_clamped() -> None:
    start, *later = walk(3 * torch.ones(2, 1, 16, 16))
    assert float(start.max()) == 3
    assert [float(x.abs().max()) for x in later] == [1.0] * 4


def test_each_step_is_algorithm_2_with_variance_beta_but_for_the_clamp_and_the_noise_from_t_1() -> None:
    small = 0.1 * torch.ones(2, 1, 64, 64)
    states = walk(small)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    for t in (3, 2, 1, 0):
        noise = (
            torch.stack([torch.randn(1, 64, 64, generator=g) for g in generators])
            if t > 1
            else torch.zeros(())
        )
        expected = (mean(states[3 - t], t) + BETAS[t].sqrt() * noise).clamp(-1, 1)
        assert torch.allclose(states[4 - t], expected.float(), atol=1e-6)


def test_it_is_nothing_that_diffusers_would_sample_alike() -> None:
    saved = Saved(sample_shape=(1, 8, 8), num_classes=None, network={}, sampler={"type": "clamped_ancestral"})
    assert scheduler_of(ClampedAncestral(Chain(BETAS)), saved) is None
