"""DDPM's loss and turn, on a denoiser whose error is known."""

from contextlib import nullcontext

import pytest
import torch
from toolkit_ddpm.objective import DDPM, Simple
from torch import Tensor

from toolkit import Batch, Denoiser, NoiseSchedule, Prediction, Step, TimestepSampler

ROWS = 4


class Off(Denoiser):
    """Predicts the noise of x_0 = 0, so that its error at x_0 is sqrt(abar_t) x_0 / sqrt(1 - abar_t)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.modes: list[bool] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.modes.append(torch.is_grad_enabled())
        return Prediction(self.schedule, x_t, t, noise=x_t / self.schedule.sigma(t, x_t))


class Learner(TimestepSampler):
    """Draws 0, 1, 2, ... with weight 2, and keeps what it is told."""

    extra = 2

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0
        self.seen: list[tuple[Tensor, Tensor]] = []

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        self.drawn += n
        return torch.arange(self.drawn - n, self.drawn), torch.full((n,), 2.0)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        self.seen.append((t, loss))


class Uniform(Learner):
    observe = TimestepSampler.observe


@pytest.fixture
def schedule() -> NoiseSchedule:
    return NoiseSchedule([0.02 * (i + 1) for i in range(20)])


def expected(schedule: NoiseSchedule, t: Tensor, x0: Tensor) -> Tensor:
    return (schedule.signal(t, x0) * x0 / schedule.sigma(t, x0)).square().flatten(1).mean(1)


def step(denoiser: Denoiser) -> Step:
    networks = {"denoiser": denoiser}
    return Step(0, 0, torch.device("cpu"), networks, networks, nullcontext)


def test_the_simple_loss_is_the_squared_error_of_the_noise_a_row(schedule: NoiseSchedule) -> None:
    x0, noise, t = torch.randn(ROWS, 1, 2, 2), torch.randn(ROWS, 1, 2, 2), torch.tensor([0, 5, 10, 19])
    loss = Simple(schedule)(Off(schedule), x0, t, noise)
    assert torch.allclose(loss, expected(schedule, t, x0), rtol=1e-4)


def test_the_loss_is_weighted_and_what_is_observed_is_not(schedule: NoiseSchedule) -> None:
    learner, denoiser, x0 = Learner(), Off(schedule), torch.randn(ROWS, 1, 2, 2)
    objective = DDPM(schedule, learner, Simple(schedule))
    (turn,) = objective.turns()
    loss = turn.loss(Batch(x0, None, 0), step(denoiser))
    objective.observe(turn.name, loss.records)
    ((t, observed),) = learner.seen
    assert float(loss.total) == pytest.approx(2 * float(observed[:ROWS].mean()))
    assert torch.allclose(observed, expected(schedule, t, x0.repeat(3, 1, 1, 1)), rtol=1e-3)


def test_extra_draws_are_passes_without_gradient_that_only_the_history_sees(schedule: NoiseSchedule) -> None:
    learner, denoiser = Learner(), Off(schedule)
    objective = DDPM(schedule, learner, Simple(schedule))
    (turn,) = objective.turns()
    loss = turn.loss(Batch(torch.randn(ROWS, 1, 2, 2), None, 0), step(denoiser))
    objective.observe(turn.name, loss.records)
    assert denoiser.modes == [True, False, False]
    assert learner.seen[0][0].tolist() == list(range(3 * ROWS))  # draw by draw, in the order of the rows


def test_nothing_is_gathered_for_timesteps_that_learn_nothing(schedule: NoiseSchedule) -> None:
    (turn,) = DDPM(schedule, Uniform(), Simple(schedule)).turns()
    denoiser = Off(schedule)
    assert turn.loss(Batch(torch.randn(ROWS, 1, 2, 2), None, 0), step(denoiser)).records == {}
    assert denoiser.modes == [True]
