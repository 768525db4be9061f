"""The loss of mean flows against closed forms, and what it refuses.

Of data N(m, v) the flow map is linear, x_s = a_s m + R (x_t - a_t m), R^2 = (a_s^2 v + s^2) / (a_t^2 v +
t^2), and u = (x_t - x_s) / (t - s). The loss knows noise - x_0 and not the mean velocity at x_t, so that its
error is not 0 there but R (noise - x_0 - velocity): at a single point, v = 0, it is 0.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit import (
    Batch,
    Continuous,
    Denoiser,
    NoiseSchedule,
    Objective,
    Prediction,
    RecipeError,
    Step,
    TimestepSampler,
    load_plugins,
)
from toolkit_meanflow.network import FlowMapMLP
from toolkit_meanflow.objective import MeanFlow

MEANS = torch.tensor([0.5, -2.0])  # of two classes


def create(kind: type, table: dict[str, Any], **supplied: Any) -> Any:
    supplied = {"schedule": path(), "num_classes": None, "sample_shape": (3,), **supplied}
    return load_plugins().registry.create(kind, table, supplied=supplied, where=str)


def path(name: str = "rectified_flow") -> Continuous:
    made: Continuous = load_plugins().registry.create(NoiseSchedule, {"type": name}, supplied={}, where=str)
    return made


def objective(**options: Any) -> MeanFlow:
    made: MeanFlow = create(Objective, {"type": "meanflow", **options}, num_classes=2)
    return made


def step_of(network: Denoiser, rows: range | None = None) -> Step:
    networks = {"denoiser": network}
    return Step(0, 0, torch.device("cpu"), networks, networks, torch.no_grad, rows=rows)


def batch(x0: Tensor, labels: Tensor | None = None) -> Batch:
    return Batch(x0, labels, position=0)


def measured(one: Objective, network: Denoiser, given: Batch) -> float:
    (turn,) = one.measures()
    torch.manual_seed(0)
    return float(turn.loss(given, step_of(network)).total)


def losses(one: MeanFlow, network: Denoiser, x0: Tensor, t: Tensor) -> Tensor:
    """Of every row, as in training."""
    torch.manual_seed(0)
    return one.losses(batch(x0), t, step_of(network, range(len(x0))))


class Map(Denoiser):
    """A flow map that remembers the first times and points that it is asked about."""

    flow_map = True

    def __init__(self) -> None:
        super().__init__()
        self.path = path()
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def mean_flow(self, x: Tensor, s: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        assert s is not None
        if not self.asked:
            self.asked.append((x_t, s, t))
        flow = self.mean_flow(x_t, s[:, None], t[:, None], label)
        return Prediction(self.path, x_t, t, flow=flow)


class Exact(Map):
    """The mean flow of N(m, variance)."""

    conditional = True

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

    def marginal(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2 * self.variance + t**2

    def mean_flow(self, x: Tensor, s: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        mean = 0.5 if label is None else MEANS[label][:, None]
        centred = x - (1 - t) * mean
        ratio = (self.marginal(s) / self.marginal(t)).sqrt()
        # (1 - R) / (t - s) without the difference of nearly equal numbers; the limit at s = t is the slope.
        shrinking = (t + s - (2 - t - s) * self.variance) / (self.marginal(t) * (1 + ratio))
        return shrinking * centred - mean


@pytest.mark.parametrize("derivative", ["exact", "difference"])
@pytest.mark.parametrize("variance", [0.0, 0.25, 2.0])
def test_of_a_gaussian_the_exact_map_leaves_what_the_flow_map_makes_of_the_unknown_noise(
    derivative: str, variance: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(64) % 2
    x0 = MEANS[labels][:, None] + variance**0.5 * torch.randn(64, 3, generator=generator)
    network = Exact(variance)
    loss = measured(objective(derivative=derivative, slope_share=0.25), network, batch(x0, labels))
    ((x_t, s, t),) = network.asked
    s, t = s[:, None], t[:, None]
    noise = (x_t - (1 - t) * x0) / t
    unknown = noise - x0 - network.mean_flow(x_t, t, t, labels)
    ratio = (network.marginal(s) / network.marginal(t)).sqrt()
    assert loss == pytest.approx(float((ratio * unknown).square().mean()), rel=2e-3, abs=1e-5)
    assert (loss < 1e-5) == (variance == 0)


def test_one_plain_step_by_the_exact_map_draws_the_data() -> None:
    network = Exact(0.25)
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    x0 = noise - network.mean_flow(noise, torch.zeros(1, 1), torch.ones(1, 1), None)
    assert float(x0.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x0.std()) == pytest.approx(0.5, abs=0.02)


class Learned(Map):
    """A map with a weight, whose loss is not 0."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight, self.dropout = nn.Parameter(torch.tensor(0.3)), nn.Dropout(dropout)

    def mean_flow(self, x: Tensor, s: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        return self.weight * self.dropout(x) * (1 + t) + s


def test_only_slopes_are_flow_matching() -> None:
    given = batch(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))
    flow = {"type": "squared_error", "target": "flow"}
    plain = create(Objective, {"type": "denoising", "loss": flow})

    class AtT(Learned):
        def mean_flow(self, x: Tensor, s: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            return super().mean_flow(x, t, t, label)

    class Slope(Denoiser):
        def forward(self, x_t: Tensor, t: Tensor, **options: Any) -> Prediction:
            return AtT()(x_t, t, s=t)

    assert measured(objective(slope_share=1.0), AtT(), given) == measured(plain, Slope(), given)


@pytest.mark.parametrize(("share", "slopes"), [(0.0, 0), (0.25, 5), (0.5, 10), (0.75, 15), (1.0, 20)])
def test_slopes_have_their_share_of_the_rows_and_other_ways_lead_down(share: float, slopes: int) -> None:
    network = Learned()
    losses(objective(slope_share=share), network, torch.randn(20, 3), torch.linspace(0.05, 0.95, 20))
    ((_, s, t),) = network.asked
    assert bool((s <= t).all()) and int((s == t).sum()) == slopes
    halves = [int((s == t)[rows].sum()) for rows in (slice(10), slice(10, 20))]
    assert abs(halves[0] - halves[1]) <= 1


def test_rows_are_chosen_by_their_place_in_the_global_batch() -> None:
    network, t = Learned(), torch.linspace(0.05, 0.95, 3)
    step = replace(step_of(network), rows=range(1, 4), total=8)
    objective(slope_share=0.5).losses(batch(torch.randn(3, 3)), t, step)
    ((_, s, t),) = network.asked
    assert (s == t).tolist() == [True, False, True]


def test_the_weight_is_that_of_the_whole_rows_error_and_has_no_gradient() -> None:
    x0, t = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 8)
    network = Learned()
    squared = losses(objective(power=0.0), network, x0, t)
    weighted = losses(objective(power=0.75, c=0.1), network, x0, t)
    weights = (squared.detach() + 0.1) ** -0.75
    assert torch.allclose(weighted, weights * squared)
    (expected,) = torch.autograd.grad((weights * squared).sum(), network.weight)
    (gradient,) = torch.autograd.grad(weighted.sum(), network.weight)
    assert torch.allclose(gradient, expected)


def test_the_target_has_no_gradient() -> None:
    """The gradient is that of |u - constant|^2, by the derivative of u alone."""
    x0, t = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 0.9, 8)
    network = Learned()
    one = objective(power=0.0, slope_share=0.0)
    (gradient,) = torch.autograd.grad(losses(one, network, x0, t).sum(), network.weight)
    ((x_t, s, t),) = network.asked
    s, t, w = s[:, None], t[:, None], network.weight.detach()
    v = (x_t - x0) / t
    target = v - (t - s) * (w * v * (1 + t) + w * x_t)
    error = w * x_t * (1 + t) + s - target
    assert torch.allclose(gradient, (2 * error * x_t * (1 + t)).sum(), rtol=1e-4)


@pytest.mark.parametrize("network", ["flow_map_mlp", "dit"])
def test_exact_and_difference_agree(network: str) -> None:
    small = {"flow_map_mlp": {"width": 16, "layers": 1}, "dit": {
        "flow_map": True, "prediction": "flow", "time_scale": 10.0, "num_layers": 1,
        "num_attention_heads": 2, "attention_head_dim": 8,
    }}  # fmt: skip
    torch.manual_seed(0)
    denoiser = create(Denoiser, {"type": network, **small[network]}, sample_shape=(1, 4, 4))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x0, t = torch.randn(8, 1, 4, 4), torch.linspace(0.05, 0.95, 8)
    exact, difference = (
        losses(objective(derivative=name, slope_share=0.0, power=0.0), denoiser, x0, t)
        for name in ("exact", "difference")
    )
    slopes = losses(objective(slope_share=1.0, power=0.0), denoiser, x0, t)
    assert torch.allclose(exact, difference, rtol=1e-3)
    assert not torch.allclose(exact, slopes, rtol=0.1)


def test_both_calls_of_a_difference_drop_the_same_units() -> None:
    """Else the difference of two masks would be divided by h."""
    network = Learned(dropout=0.5)
    one = objective(derivative="difference", h=1e-4, slope_share=0.0, power=0.0)
    found = losses(one, network, torch.ones(64, 3), torch.full((64,), 0.5))
    assert float(found.max()) < 1e3


class _NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Backward(Learned):
    def mean_flow(self, x: Tensor, s: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        out: Tensor = _NoForwardMode.apply(super().mean_flow(x, s, t, label))
        return out


def test_a_network_without_forward_mode_is_refused_by_name_and_has_its_difference() -> None:
    x0, t = torch.randn(4, 3), torch.linspace(0.1, 0.9, 4)
    with pytest.raises(
        RecipeError, match=r'"exact" is not possible with \[networks.denoiser\].*"difference"'
    ):
        losses(objective(), Backward(), x0, t)
    found, expected = (
        losses(objective(derivative="difference"), network, x0, t) for network in (Backward(), Learned())
    )
    assert torch.equal(found, expected)


def test_a_network_that_does_not_read_s_is_refused_by_name() -> None:
    network = create(Denoiser, {"type": "dit", "prediction": "flow", "num_layers": 1}, sample_shape=(1, 4, 4))
    with pytest.raises(RecipeError, match="denoiser.* does not read s.*flow_map = true"):
        losses(objective(), network, torch.randn(4, 1, 4, 4), torch.rand(4))


@pytest.mark.parametrize("name", ["vp", "cosine", "edm"])
def test_a_path_that_is_not_straight_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="meanflow is for straight paths"):
        MeanFlow(path(name), create(TimestepSampler, {"type": "uniform"}, schedule=path(name)), None)


def test_timesteps_that_follow_the_order_of_rows_are_refused() -> None:
    with pytest.raises(RecipeError, match="two independent times a row"):
        objective(timesteps={"type": "stratified"})


def test_the_first_answer_of_the_perceptrons_is_exactly_zero() -> None:
    x, t = torch.randn(4, 2), torch.rand(4)
    assert torch.equal(FlowMapMLP(path(), (2,))(x, t, s=t / 2).flow, torch.zeros(4, 2))
