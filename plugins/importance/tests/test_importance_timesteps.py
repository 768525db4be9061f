"""The sampler that learns from losses, against published numbers and against a slow one."""

import json
from collections import deque
from math import sqrt
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toolkit import Chain, NoiseSchedule
from toolkit_importance.second_moment import SecondMoment

VECTORS = json.loads(Path(__file__).with_name("importance_vectors.json").read_text())
LENGTH, HISTORY, SHARE = VECTORS["T"], VECTORS["history_per_term"], VECTORS["uniform_prob"]
CPU = torch.device("cpu")


def schedule(length: int = LENGTH) -> NoiseSchedule:
    return Chain([0.1] * length)


def filled(rows: list[list[float]]) -> SecondMoment:
    """One that has seen these losses (T, history), the oldest first."""
    sampler = SecondMoment(schedule(len(rows)), history=len(rows[0]), uniform=SHARE)
    t = torch.arange(len(rows)).repeat_interleave(len(rows[0]))
    sampler.observe(t, torch.tensor(rows, dtype=torch.float64).flatten())
    return sampler


def weights(sampler: SecondMoment) -> Tensor:
    """The weight of each timestep, as draws of it carry it."""
    t, weight = sampler.draw(100_000, CPU)
    table = torch.full((len(sampler.timesteps),), torch.nan)
    table[torch.searchsorted(sampler.timesteps, t)] = weight
    return table


def slow_probabilities(length: int, history: int, seen: list[tuple[int, float]]) -> list[float]:
    kept = [deque[float](maxlen=history) for _ in range(length)]
    for t, loss in seen:
        kept[t].append(loss)
    if any(len(losses) < history for losses in kept):
        return [1 / length] * length
    sizes = [sqrt(sum(loss**2 for loss in losses) / history) for losses in kept]
    return [(1 - SHARE) * size / sum(sizes) + SHARE / length for size in sizes]


def test_timesteps_are_uniform_until_the_last_history_is_full() -> None:
    sampler = SecondMoment(schedule(), history=2)
    assert weights(sampler).tolist() == [1.0] * LENGTH
    sampler.observe(torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 0]), torch.linspace(1, 9, 11))
    assert weights(sampler).tolist() == [1.0] * LENGTH
    sampler.observe(torch.tensor([4]), torch.tensor([5.0]))
    assert float(sampler.probabilities.std()) > 0.01


def test_probabilities_and_weights_are_the_published_ones() -> None:
    sampler = filled(VECTORS["history"])
    assert sampler.probabilities.tolist() == pytest.approx(VECTORS["p"], rel=1e-12)
    assert weights(sampler).tolist() == pytest.approx(VECTORS["loss_weight"], rel=1e-6)
    sampler.observe(torch.tensor([0, 0]), torch.tensor(VECTORS["after_pushing_t0"]))
    assert sampler.probabilities.tolist() == pytest.approx(VECTORS["p_after"], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.floats(0.125, 8.0, width=32)), min_size=1, max_size=30),
        max_size=5,
    ),
    st.integers(1, 4),
)
def test_batches_are_kept_as_if_pushed_one_by_one(
    batches: list[list[tuple[int, float]]], history: int
) -> None:
    """Also where one timestep occurs more often in a batch than the history is long."""
    start = [(t, 1.0 + t) for t in range(3) for _ in range(history)]
    sampler = SecondMoment(schedule(3), history=history, uniform=SHARE)
    for batch in [start, *batches]:
        t, loss = torch.tensor([t for t, _ in batch], dtype=torch.int64), torch.tensor([x for _, x in batch])
        sampler.observe(t, loss)
    expected = slow_probabilities(3, history, start + sum(batches, []))
    assert sampler.probabilities.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_weighted_loss_is_unbiased() -> None:
    torch.manual_seed(0)
    mean = torch.rand(LENGTH, dtype=torch.float64) + 0.01
    sampler = filled((mean[:, None] * torch.rand(LENGTH, 4)).tolist())
    p = sampler.probabilities
    assert float((p * (1 / (LENGTH * p)) * mean).sum()) == pytest.approx(float(mean.mean()), rel=1e-12)
    n = 50_000
    t, weight = sampler.draw(n, CPU)
    chi_square = ((torch.bincount(t, minlength=LENGTH) - n * p) ** 2 / (n * p)).sum()
    assert float(chi_square) < 18.5  # 4 degrees of freedom: 1 in 1000
    estimates = weight * mean[t]
    assert abs(float(estimates.mean() - mean.mean())) < 4 * float(estimates.std()) / sqrt(n)


def test_draws_in_proportion_to_the_loss_have_less_variance_than_uniform_ones() -> None:
    losses = torch.tensor([1.0, 0.3, 0.1, 0.03, 0.01], dtype=torch.float64)
    sampler = filled(losses[:, None].repeat(1, 3).tolist())
    t, weight = sampler.draw(10_000, CPU)
    assert float((weight * losses[t]).std()) < 0.05 * float(losses.std())


def test_a_respaced_chain_keeps_its_original_indices() -> None:
    kept = torch.tensor([0, 7, 50, 99])
    sampler = SecondMoment(schedule(100).respace(kept), history=1, uniform=0.01)
    assert set(sampler.draw(1000, CPU)[0].tolist()) == set(kept.tolist())
    sampler.observe(torch.tensor([99, 0, 50, 7]), torch.tensor([4.0, 1.0, 3.0, 2.0]))
    expected = [0.99 * size / 10 + 0.01 / 4 for size in (1, 2, 3, 4)]
    assert sampler.probabilities.tolist() == pytest.approx(expected, rel=1e-12)


def test_what_was_learned_is_state_in_full_precision() -> None:
    sampler = filled(VECTORS["history"])
    other = SecondMoment(schedule(), history=HISTORY, uniform=SHARE)
    other.load_state_dict(sampler.state_dict())
    assert sampler.state_dict()["losses"].dtype == torch.float64
    for one in (sampler, other):  # a push out of the middle of the ring
        one.observe(torch.tensor([0, 0]), torch.tensor(VECTORS["after_pushing_t0"]))
    assert torch.equal(sampler.probabilities, other.probabilities)


@pytest.mark.parametrize("loss", [0.0, torch.nan, torch.inf])
def test_losses_that_say_nothing_leave_timesteps_uniform(loss: float) -> None:
    """Whoever draws next must not fail before the trainer has said which loss was not finite."""
    sampler = filled([[loss]] * LENGTH)
    assert weights(sampler).tolist() == [1.0] * LENGTH
