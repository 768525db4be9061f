"""Weights of draws and the gradients that they give, against published numbers."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from iwdiff_parts import SHAPE, Linear, Stated, chain, objective, trained
from torch import Tensor

from toolkit import Chain
from toolkit_iwdiff.weights import DrawWeights

VECTORS = json.loads(Path(__file__).with_name("iwdiff_vectors.json").read_text())
CASES = pytest.mark.parametrize("case", VECTORS["cases"], ids=range(len(VECTORS["cases"])))


def samples(values: list[Any]) -> Tensor:
    """(B, k) from draws first, as the vectors have them."""
    table = torch.tensor(values, dtype=torch.float64)
    return table.T if table.ndim == 2 else table[None]


def weights(losses: Tensor, sign: int = 1, scale: Any = "mean", dimensions: int = 1) -> Tensor:
    t = torch.zeros(len(losses), dtype=torch.int64)
    return DrawWeights(chain(), dimensions, sign, scale)(losses, t)


@CASES
def test_weights_of_both_signs_are_the_published_ones(case: dict[str, Any]) -> None:
    losses = samples(case["losses"])
    assert torch.allclose(weights(losses), samples(case["weights_plus"]), rtol=1e-9)
    assert torch.allclose(weights(losses, sign=-1), samples(case["weights_minus_iwae_sign"]), rtol=1e-9)


@CASES
@pytest.mark.parametrize("detach", [True, False])
def test_gradients_of_draws_are_the_published_ones(case: dict[str, Any], detach: bool) -> None:
    """Detached, a draw's gradient has its weight; literally differentiated, it may be negative."""
    losses = samples(case["losses"]).flatten().clone().requires_grad_()
    b, k = samples(case["losses"]).shape
    loss = trained(objective(Stated(losses), k=k, detach=detach), Linear(chain()), rows=b)
    expected = samples(case["grad_coeff_detached" if detach else "grad_coeff_literal"]).flatten()
    assert losses.grad is not None
    assert torch.allclose(losses.grad * b, expected, rtol=1e-5, atol=1e-9)
    assert float(loss.total) == pytest.approx(float(torch.tensor(case["loss"]).mean()), rel=1e-6)
    ess = float(torch.tensor(case["ess"]).mean())
    assert float(loss.logs["effective_draws"]) == pytest.approx(ess, rel=1e-6)


def test_a_large_scale_with_minus_is_the_minimum_of_the_losses() -> None:
    """The scale of iwdiff_minimum_small."""
    losses = 0.05 + 0.01 * torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    found = (weights(losses, sign=-1, scale=1e6, dimensions=64) * losses).sum(1)
    assert torch.allclose(found, losses.amin(1), rtol=1e-6)


def test_weights_by_the_sum_train_the_mean() -> None:
    """The published gradient is of a sum over the 6 dimensions; ours is a sixth of it."""
    k, b, *shape = VECTORS["errors_shape_k_B_C_H_W"]
    error = torch.tensor(VECTORS["errors"], dtype=torch.float64).view(k, b, *shape).requires_grad_()
    rows = error.transpose(0, 1).flatten(0, 1).square().flatten(1).mean(1)
    weights_of = {scale: torch.tensor(VECTORS[f"{scale}_weights"]).T for scale in ("sum", "mean")}
    for scale, expected in weights_of.items():
        found = weights(rows.detach().view(b, k), scale=scale, dimensions=prod(shape))
        assert torch.allclose(found.float(), expected, rtol=1e-6)
    assert tuple(shape) == SHAPE
    stated = (
        rows.detach().requires_grad_()
    )  # each chunk is differentiated at once, and frees what it is made of
    trained(objective(Stated(stated), k=k, scale="sum"), Linear(chain()), rows=b)
    rows.backward(stated.grad)
    assert error.grad is not None
    assert torch.allclose(error.grad.flatten() * 6, torch.tensor(VECTORS["gradient_sum"]).double(), rtol=1e-5)


def test_a_number_multiplies_the_sum() -> None:
    losses = torch.tensor([[0.1, 0.3]])
    assert torch.equal(weights(losses, scale=0.5, dimensions=6), weights(3 * losses))
    assert weights(losses, scale=0.0, dimensions=6).tolist() == [[0.5, 0.5]]


def test_the_scale_of_the_bound_is_the_published_coefficient_of_each_timestep() -> None:
    schedule = Chain(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    t = torch.tensor(VECTORS["bound_index"])
    losses = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(len(t), 1)
    log_odds = torch.logit(DrawWeights(schedule, 3, -1, "vlb")(losses, t)[:, 0])
    assert torch.allclose(log_odds, 3 * torch.tensor(VECTORS["bound_coefficients"]).double(), rtol=1e-5)


def test_the_scale_of_the_bound_follows_a_respaced_chain() -> None:
    """With the betas of the steps that are left, and the second posterior variance at the first of them."""
    schedule = Chain([0.1, 0.2, 0.3, 0.4]).respace([1, 3])
    abar = torch.tensor([0.9 * 0.8, 0.9 * 0.8 * 0.7 * 0.6], dtype=torch.float64)
    beta = 1 - abar / torch.tensor([1.0, float(abar[0])])
    variance = torch.stack([beta[1] * (1 - abar[0]) / (1 - abar[1]), beta[1]])
    expected = beta**2 / (2 * variance * (1 - beta) * (1 - abar))
    losses = torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64)
    log_odds = torch.logit(DrawWeights(schedule, 1, -1, "vlb")(losses, torch.tensor([1, 3]))[:, 0])
    assert torch.allclose(log_odds, expected, rtol=1e-6)


def test_a_chain_that_ends_in_pure_noise_has_no_scale_of_the_bound() -> None:
    with pytest.raises(ValueError, match="every beta below 1"):
        DrawWeights(Chain([0.5, 1.0]), 1, 1, "vlb")
