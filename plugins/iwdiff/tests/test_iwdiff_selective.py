"""Looking for the draws that count before passing them with gradient."""

from typing import Any

import pytest
import torch
from iwdiff_parts import Learner, Linear, batch, chain, gradient, objective, step, trained

from toolkit import Prediction
from toolkit_iwdiff.objective import IWDiff


@pytest.fixture
def denoiser() -> Linear:
    torch.manual_seed(2)
    return Linear(chain())


def selective(active: float = 1.0, **options: Any) -> IWDiff:
    """One that has seen so many active draws a sample."""
    one = objective(selective=True, **{"k": 8, "scale": "sum", **options})
    one.observe("denoiser", {"active": torch.tensor([active])})
    return one


def test_at_threshold_0_two_passes_give_the_gradient_of_one(denoiser: Linear) -> None:
    one_pass = trained(objective(timesteps=Learner(), k=8, scale="sum"), denoiser)
    whole = gradient(denoiser)
    two_passes = trained(selective(timesteps=Learner(), threshold=0.0), denoiser)
    assert torch.allclose(gradient(denoiser), whole, rtol=1e-4, atol=1e-6)
    assert float(two_passes.total) == pytest.approx(float(one_pass.total), rel=1e-6)
    assert torch.allclose(two_passes.records["loss"], one_pass.records["loss"], rtol=1e-5)


def test_what_is_dropped_is_small_and_what_is_kept_is_what_counts(denoiser: Linear) -> None:
    trained(objective(k=8, scale="sum"), denoiser)
    whole = gradient(denoiser)
    denoiser.passes.clear()
    loss = trained(selective(threshold=0.01), denoiser)
    assert 0 < float((gradient(denoiser) - whole).norm() / whole.norm()) < 0.07  # at most 7 x 0.01 a sample
    with_gradient = sum(rows for rows, grad in denoiser.passes if grad)
    assert sum(rows for rows, grad in denoiser.passes if not grad) == 4 * 8
    assert with_gradient == int(loss.records["active"].sum()) < 4 * 8
    assert max(rows for rows, _ in denoiser.passes) <= 8


@pytest.mark.parametrize(
    ("k", "active", "two"), [(8, 1.5, True), (8, 5.4, False), (2, 1.3, True), (2, 1.4, False)]
)
def test_two_passes_are_taken_where_they_are_cheaper(k: int, active: float, two: bool) -> None:
    """k + 3 A below 3 k, that is A below 2 k / 3."""
    assert selective(active, k=k).two_passes == two


def test_the_first_step_is_one_pass_and_measures(denoiser: Linear) -> None:
    one = objective(k=8, scale="sum", selective=True)
    assert not one.two_passes
    loss = trained(one, denoiser)
    one.observe("denoiser", loss.records)
    assert float(one.active) == pytest.approx(float(loss.logs["active_draws"]))
    assert one.two_passes


def test_on_the_scale_of_the_mean_two_passes_never_pay(denoiser: Linear) -> None:
    one = objective(k=8, selective=True)
    for _ in range(3):
        one.observe("denoiser", trained(one, denoiser).records)
    assert float(one.active) == 8 and not one.two_passes


def test_the_number_of_active_draws_follows_training_slowly_and_is_state() -> None:
    one = selective(1.0)
    one.observe("denoiser", {"active": torch.tensor([2, 4])})
    assert float(one.active) == pytest.approx(1.1)  # a twentieth of the way to the new mean
    other = objective(selective=True, k=8)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.active, one.active)


def test_a_loss_that_is_not_finite_is_not_left_out(denoiser: Linear) -> None:
    """It is no more above the threshold than below; dropped, nobody would hear of it."""

    class Broken(Linear):
        def forward(self, *given: Any, **named: Any) -> Prediction:
            prediction = super().forward(*given, **named)
            broken = torch.where(
                torch.arange(len(given[0]))[:, None, None, None] == 0, torch.nan, prediction.noise
            )
            return Prediction(self.schedule, *given[:2], noise=broken)

    (turn,) = selective(1.0).turns()
    assert turn.loss(batch(), step(Broken(chain()))).total.isnan()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weights": "uniform"}, "nothing to leave out"),
        ({"detach": False}, "every draw has a gradient"),
        ({"k": 4, "threshold": 0.25}, "must be below 1 / k = 0.25"),
    ],
)
def test_combinations_that_cannot_work_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        objective(**{"selective": True, "scale": "sum", **options})
