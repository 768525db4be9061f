"""Small parts for the tests of consistency models: exact maps of a Gaussian, networks that remember."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import Batch, Denoiser, NoiseSchedule, Objective, Prediction, Step, load_plugins

MEAN, STD = 0.3, 0.6  # of the data
SHAPE = (2, 3)
Formula = Callable[[Tensor, Tensor], Tensor]


def create(
    kind: type, path: NoiseSchedule | None = None, shape: tuple[int, ...] = SHAPE, **table: Any
) -> Any:
    torch.manual_seed(0)
    supplied = {"schedule": path, "num_classes": None, "sample_shape": shape}
    return load_plugins().registry.create(kind, table, supplied=supplied, where=lambda path: "test")


def edm(**options: float) -> Any:
    return create(NoiseSchedule, type="edm", **options)


def objective(name: str, path: NoiseSchedule, **options: Any) -> Any:
    return create(Objective, path, type=f"consistency_{name}", **options)


class Estimates(Denoiser):
    """Estimates x_0 by a formula of x_t and sigma, times `a`, and remembers its inputs."""

    def __init__(self, path: NoiseSchedule, formula: Formula) -> None:
        super().__init__()
        self.path, self.formula, self.a = path, formula, nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append((x_t, t, label))
        x0 = self.a * self.formula(x_t, t.view(-1, *[1] * (x_t.ndim - 1)))
        return Prediction(self.path, x_t, t, x0=x0)


def posterior_mean(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x] of data N(MEAN, STD^2): an exact teacher."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)


def end_of_trajectory(x: Tensor, sigma: Tensor) -> Tensor:
    """Where the trajectory through x at sigma ends, for data N(MEAN, STD^2): an exact consistency model."""
    return MEAN + (STD**2 / (STD**2 + sigma**2)).sqrt() * (x - MEAN)


class Masks(Denoiser):
    """A network F that computes its dropout mask, and remembers it."""

    def __init__(self, path: NoiseSchedule) -> None:
        super().__init__()
        self.path, self.dropout = path, nn.Dropout(0.5)
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
        self.seen.append(self.dropout(torch.ones_like(x_t)))
        return Prediction(self.path, x_t, t, noise=self.seen[-1])


def batch(rows: int = 64) -> Batch:
    images = MEAN + STD * torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(rows) % 3, 0)


def step(number: int = 0, average: nn.Module | None = None, **networks: nn.Module) -> Step:
    averages = networks if average is None else {**networks, "denoiser": average}
    return Step(number, 0, torch.device("cpu"), networks, averages, torch.no_grad)


def loss(one: Any, at: Step, given: Batch | None = None) -> Tensor:
    """The loss of the objective's turn, at a fixed seed."""
    torch.manual_seed(0)
    (turn,) = one.turns()
    total: Tensor = turn.loss(given or batch(), at).total
    return total
