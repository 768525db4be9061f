"""Couplings against brute force and closed forms."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from toolkit_flow.coupling import Coupling, Immiscible, Independent, OptimalTransport


def drawn(coupling: Coupling, x0: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return coupling.noise(x0)


def distance(x0: Tensor, noise: Tensor) -> float:
    return float((x0 - noise).square().sum())


@pytest.mark.parametrize("seed", range(3))
def test_optimal_transport_is_the_best_of_all_orders_of_the_same_noises(seed: int) -> None:
    torch.manual_seed(seed)
    x0 = torch.randn(6, 2, 3)
    plain, paired = (drawn(coupling, x0, seed) for coupling in (Independent(), OptimalTransport()))
    best = min(distance(x0, plain[list(order)]) for order in permutations(range(6)))
    assert distance(x0, paired) == pytest.approx(best, rel=1e-6)
    assert torch.equal(paired.flatten(1).sort(0).values, plain.flatten(1).sort(0).values)


def test_on_a_line_the_optimal_pairs_are_those_of_equal_rank() -> None:
    torch.manual_seed(0)
    x0 = torch.rand(100, 1)
    noise = drawn(OptimalTransport(), x0)
    assert torch.equal(x0.argsort(0), noise.argsort(0))


def test_images_that_are_not_finite_reach_the_trainer_which_names_them() -> None:
    x0 = torch.full((4, 1), torch.nan)
    assert torch.equal(drawn(OptimalTransport(), x0), drawn(Independent(), x0))


@pytest.mark.parametrize("k", [1, 5])
def test_immiscible_takes_the_nearest_of_k_noises(k: int) -> None:
    torch.manual_seed(0)
    x0 = torch.randn(4, 3, 2, 2)
    torch.manual_seed(1)
    candidates = torch.stack([torch.randn_like(x0) for _ in range(k)])
    nearest = (candidates - x0).square().flatten(2).sum(2).argmin(0)
    assert torch.equal(drawn(Immiscible(k), x0), candidates[nearest, torch.arange(4)])


def test_the_noise_is_standard_normal_but_for_immiscible() -> None:
    """Over batches. Of k = 4 numbers the nearest to a far x0 is the largest, whose mean is 1.03."""
    far = torch.full((20_000, 1), 100.0)
    assert float(drawn(Immiscible(4), far).mean()) == pytest.approx(1.03, abs=0.02)
    x0 = torch.linspace(-1, 1, 8)[:, None]
    torch.manual_seed(0)
    batches = torch.cat([OptimalTransport().noise(x0[torch.randperm(8)]) for _ in range(1000)])
    assert float(batches.mean()) == pytest.approx(0, abs=0.03)
    assert float(batches.std()) == pytest.approx(1, abs=0.03)
