"""Small parts for the tests of IWDiff."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit import (
    Batch,
    Chain,
    Denoiser,
    DenoisingLoss,
    Loss,
    NoiseSchedule,
    Prediction,
    Step,
    TimestepSampler,
)
from toolkit.training.denoising import SquaredError, Unweighted
from toolkit_iwdiff.objective import IWDiff

SHAPE = (1, 2, 3)


def chain() -> NoiseSchedule:
    return Chain([0.02 * (i + 1) for i in range(20)])


def simple(schedule: NoiseSchedule) -> SquaredError:
    """The squared error of the noise."""
    return SquaredError(schedule, Unweighted())


class Linear(Denoiser):
    """A denoiser of a few weights that sees t and the label, and counts the rows of its passes."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.net = nn.Linear(8, 12)
        self.passes: list[tuple[int, bool]] = []  # rows, whether with gradient

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.passes.append((len(t), torch.is_grad_enabled()))
        seen = [x_t.flatten(1), t[:, None] / 20, torch.zeros(len(t), 1) if label is None else label[:, None]]
        noise, fraction = self.net(torch.cat(seen, 1)).view(len(t), 2, *SHAPE).unbind(1)
        return Prediction(self.schedule, x_t, t, noise=noise, variance_fraction=fraction.sigmoid())


class Uneven(DenoisingLoss):
    """A loss that also trains the variance: its gradient reaches all that the denoiser predicts."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        error = (prediction.noise - noise).square() + prediction.variance_fraction * noise
        return error.flatten(1).mean(1)


class Stated(DenoisingLoss):
    """Losses (B k,) that are given, in the order of the rows."""

    def __init__(self, losses: Tensor) -> None:
        super().__init__()
        self.losses, self.at = losses, 0

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        self.at += len(x0)
        return self.losses[self.at - len(x0) : self.at]


class Uniform(TimestepSampler):
    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randint(20, (n,)), torch.ones(n)


class Learner(TimestepSampler):
    """Draws with weights, and keeps what it is told."""

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra
        self.seen: list[tuple[Tensor, Tensor]] = []

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randint(20, (n,)), torch.rand(n) + 0.5

    def observe(self, t: Tensor, loss: Tensor) -> None:
        self.seen.append((t, loss))


def objective(
    loss: DenoisingLoss | None = None, timesteps: TimestepSampler | None = None, **options: object
) -> IWDiff:
    schedule = chain()
    given: dict[str, object] = {"loss": loss or simple(schedule), "timesteps": timesteps or Uniform()}
    return IWDiff(schedule, SHAPE, **given, **options)  # type: ignore[arg-type]


def batch(rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(rows, *SHAPE, generator=generator), torch.arange(rows) % 3, 0)


def step(denoiser: nn.Module, backward: Callable[[Tensor], None] = Tensor.backward) -> Step:
    from contextlib import nullcontext

    networks = {"denoiser": denoiser}
    return Step(0, 0, torch.device("cpu"), networks, networks, nullcontext, backward=backward)


def trained(one: IWDiff, denoiser: nn.Module, rows: int = 4) -> Loss:
    """Take the objective's turn at a fixed seed; gradients are on the denoiser."""
    torch.manual_seed(0)
    (turn,) = one.turns()
    loss = turn.loss(batch(rows), step(denoiser))
    assert not loss.total.requires_grad
    return loss


def gradient(denoiser: nn.Module) -> Tensor:
    """All gradients in one, which are then forgotten."""
    flat = torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])
    denoiser.zero_grad()
    return flat
