"""IWDiff's turn against its formula written out, on a denoiser of a few weights."""

from math import prod

import pytest
import torch
from iwdiff_parts import (
    SHAPE,
    Learner,
    Linear,
    Uneven,
    batch,
    chain,
    gradient,
    objective,
    simple,
    step,
    trained,
)
from torch import Tensor

from toolkit import DenoisingLoss
from toolkit.training.denoising import Denoising
from toolkit_iwdiff.objective import IWDiff

DIMENSIONS = prod(SHAPE)


@pytest.fixture
def denoiser() -> Linear:
    torch.manual_seed(2)
    return Linear(chain())


def written_out(one: IWDiff, denoiser: Linear, rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """All k losses of a step (B, k) with gradient in one pass, its timesteps and its samplers' weights."""
    torch.manual_seed(0)
    given = batch(rows)
    t, weight = one.timesteps.draw(rows, torch.device("cpu"))
    noise = torch.randn(rows * one.k, *SHAPE)
    assert given.labels is not None
    x0, label = given.images.repeat_interleave(one.k, 0), given.labels.repeat_interleave(one.k)
    times = t.repeat_interleave(one.k)
    losses = one.loss(denoiser(one.schedule.diffuse(x0, times, noise), times, label=label), x0, noise)
    return losses.view(rows, one.k), t, weight


@pytest.mark.parametrize("loss", [simple, Uneven])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_chunks_of_samples_give_the_gradient_of_the_whole(
    denoiser: Linear, loss: type[DenoisingLoss], k: int
) -> None:
    """With labels, weights of the timesteps, and a loss that trains the variance."""
    one = objective(loss(chain()), Learner(), k=k, scale="sum")  # type: ignore[call-arg]
    losses, _, weight = written_out(one, denoiser)
    w = torch.softmax(DIMENSIONS * losses.detach(), 1)
    expected = (weight * (w * losses).sum(1)).mean()
    expected.backward()
    whole = gradient(denoiser)
    assert float(trained(one, denoiser).total) == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient(denoiser), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_no_pass_has_more_rows_than_the_micro_batch(denoiser: Linear, k: int) -> None:
    trained(objective(k=k), denoiser, rows=8)
    rows = [rows for rows, _ in denoiser.passes]
    assert max(rows) <= 8 and sum(rows) == 8 * k
    if k == 1:
        assert rows == [8]


def test_the_gradient_is_that_of_the_log_mean_exp(denoiser: Linear) -> None:
    one = objective(k=3, scale="sum")
    losses, _, _ = written_out(one, denoiser)
    (torch.logsumexp(DIMENSIONS * losses, 1) / DIMENSIONS).mean().backward()
    bound = gradient(denoiser)
    trained(one, denoiser)
    assert torch.allclose(gradient(denoiser), bound, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("sign", "above"), [(1, True), (-1, False)])
def test_the_sign_says_whether_hard_or_easy_draws_count(denoiser: Linear, sign: int, above: bool) -> None:
    one = objective(k=4, sign=sign, scale="sum")
    mean = written_out(one, denoiser)[0].mean()
    assert (float(trained(one, denoiser).total) > mean.item() + 0.1) == above


def test_on_the_scale_of_the_mean_many_draws_are_almost_their_average(denoiser: Linear) -> None:
    """What the thesis trained differs from the control with uniform weights in the third decimal."""
    uniform = trained(objective(k=2, weights="uniform"), denoiser)
    assert float(uniform.logs["effective_draws"]) == 2
    average = gradient(denoiser)
    losses, _, _ = written_out(objective(k=2), denoiser)
    losses.mean().backward()
    assert torch.allclose(gradient(denoiser), average, rtol=1e-4, atol=1e-6)
    trained(objective(k=2, scale=1e-2 / DIMENSIONS), denoiser)
    assert torch.allclose(gradient(denoiser), average, rtol=0.05, atol=1e-3)


def test_a_sampler_sees_unweighted_losses_of_all_draws_of_a_sample(denoiser: Linear) -> None:
    learner = Learner(extra=2)
    one = objective(timesteps=learner, k=2, scale="sum")
    losses, t, weight = written_out(one, denoiser)
    w = torch.softmax(DIMENSIONS * losses.detach(), 1)
    denoiser.passes.clear()
    loss = trained(one, denoiser)
    one.observe("denoiser", loss.records)
    ((seen_t, seen),) = learner.seen
    assert torch.equal(seen_t[:4], t) and len(seen) == 12
    assert torch.allclose(seen[:4], (w * losses).sum(1), rtol=1e-5)
    assert float(loss.total) == pytest.approx(float((weight * seen[:4]).mean()), rel=1e-5)
    # Each further draw of t is a pass over the same number of noises, without gradient.
    assert [grad for _, grad in denoiser.passes] == [True] * 2 + [False] * 4
    assert sum(rows for rows, _ in denoiser.passes) == 3 * 4 * 2


def test_nothing_is_recorded_when_nothing_learns(denoiser: Linear) -> None:
    assert trained(objective(), denoiser).records == {}


def test_held_out_loss_is_measured_as_without_the_method(denoiser: Linear) -> None:
    one = objective(k=5, scale="sum")
    losses = []
    for measured in (one, Denoising(chain(), one.timesteps, one.loss, None)):
        torch.manual_seed(3)
        (measure,) = measured.measures()
        losses.append(measure.loss(batch(), step(denoiser)).total.item())
    assert losses[0] == losses[1]
