"""The objective: what coupling does to the loss, and that classes keep noises of their own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit import Batch, Denoiser, NoiseSchedule, Objective, Prediction, Step, load_plugins
from toolkit_flow.coupling import Coupling, Immiscible, Independent, OptimalTransport
from toolkit_flow.objective import Coupled

MEAN, STD = 0.5, 0.25


def create(kind: type, table: dict[str, Any], **supplied: Any) -> Any:
    registry = load_plugins().registry
    supplied = {"schedule": None, "num_classes": None, **supplied}
    return registry.create(kind, table, supplied=supplied, where=lambda path: "test")


def rectified_flow() -> NoiseSchedule:
    path: NoiseSchedule = create(NoiseSchedule, {"type": "rectified_flow"})
    return path


class Straight(Denoiser):
    """The flow of points whose noise is (x_0 - MEAN) / STD, which is the optimal transport.

    It remembers its inputs.
    """

    def __init__(self, schedule: NoiseSchedule, conditional: bool = False) -> None:
        super().__init__()
        self.schedule, self.conditional = schedule, conditional
        self.null_class = False
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        time = t[:, None]
        self.seen.append((x_t, time))
        noise = (x_t - (1 - time) * MEAN) / ((1 - time) * STD + time)
        return Prediction(self.schedule, x_t, t, flow=noise - (MEAN + STD * noise))


def objective(coupling: Coupling, **options: Any) -> Coupled:
    path = rectified_flow()
    made: Coupled = create(
        Objective,
        {"type": "coupled", "loss": {"type": "squared_error", "target": "flow"}, **options},
        schedule=path,
        num_classes=2,
    )
    made.coupling = coupling
    return made


def loss(one: Any, given: Batch, conditional: bool = False) -> tuple[float, Straight]:
    network = Straight(one.schedule, conditional)
    networks = {"denoiser": network}
    (turn,) = one.turns()
    torch.manual_seed(0)
    step = Step(0, 0, torch.device("cpu"), networks, networks, torch.no_grad)
    return float(turn.loss(given, step).total), network


def batch(images: Tensor, labels: Tensor | None = None) -> Batch:
    return Batch(images, labels, position=0)


def points(n: int = 512) -> Tensor:
    return MEAN + STD * torch.randn(n, 1, generator=torch.Generator().manual_seed(3))


def test_coupled_by_optimal_transport_a_straight_flow_explains_every_point() -> None:
    """With independent noises the lines cross: no flow of x_t and t predicts them all."""
    given = batch(points())
    straight, _ = loss(objective(OptimalTransport()), given)
    immiscible, _ = loss(objective(Immiscible(8)), given)
    crossing, _ = loss(objective(Independent()), given)
    assert straight < 0.02 < 0.1 < immiscible < crossing


def test_with_independent_noises_it_is_the_objective_denoising() -> None:
    given = batch(points())
    one = objective(Independent())
    plain = create(
        Objective,
        {"type": "denoising", "loss": {"type": "squared_error", "target": "flow"}},
        schedule=rectified_flow(),
    )
    assert loss(one, given)[0] == loss(plain, given)[0]


@pytest.mark.parametrize("conditional", [False, True])
def test_a_class_has_noises_of_its_own_if_the_network_knows_classes(conditional: bool) -> None:
    """Two classes far apart: paired as one set, the right one gets the right half of the noises."""
    labels = torch.arange(400) % 2
    images = torch.where(labels == 0, -9.0, 9.0)[:, None]
    _, network = loss(objective(OptimalTransport()), batch(images, labels), conditional)
    ((x_t, t),) = network.seen
    noise = (x_t - (1 - t) * images) / t
    apart = noise[labels == 1].mean() - noise[labels == 0].mean()
    assert float(apart) == pytest.approx(0.0 if conditional else 1.6, abs=0.25)
