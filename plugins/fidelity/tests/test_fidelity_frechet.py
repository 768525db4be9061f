"""The Frechet distance of Gaussians is known: its interval holds it, and its limit has no bias."""

import pytest
import torch
from torch import Tensor

from toolkit_fidelity.frechet import FID, FIDInfinity, Gaussian, fitted, frechet

D = 6
SHIFT = torch.tensor([0.5] + [0.0] * (D - 1))
SCALE = torch.linspace(0.7, 1.3, D)
TRUE = float(SHIFT.square().sum() + (SCALE - 1).square().sum())  # of N(shift, scale^2) from N(0, 1)


def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, D, generator=draw) * SCALE + SHIFT, torch.randn(n, D, generator=draw)


def test_the_distance_of_gaussians_that_do_not_commute() -> None:
    """In two dimensions tr (AB)^1/2 = (tr AB + 2 det(AB)^1/2)^1/2."""
    a, b = torch.tensor([[2.0, 0.6], [0.6, 1.0]]).double(), torch.tensor([[1.0, -0.5], [-0.5, 3.0]]).double()
    root = ((a @ b).trace() + 2 * (a.det() * b.det()).sqrt()).sqrt()
    expected = 4.0 + a.trace() + b.trace() - 2 * root
    zero, two = torch.zeros(2).double(), torch.tensor([2.0, 0.0]).double()
    assert frechet(Gaussian(zero, a), Gaussian(two, b)) == pytest.approx(float(expected), rel=1e-9)
    assert frechet(Gaussian(two, b), Gaussian(zero, a)) == pytest.approx(float(expected), rel=1e-9)


def test_singular_covariances_have_a_distance() -> None:
    """Three points span two of six directions."""
    few, _ = pair(3, seed=0)
    assert frechet(fitted(few), fitted(few)) == pytest.approx(0, abs=1e-5)
    assert frechet(fitted(few), fitted(few + 2)) == pytest.approx(4 * D, rel=1e-5)


@pytest.mark.slow
def test_the_interval_holds_the_true_distance_as_often_as_it_says(subject) -> None:
    """Of 40 at 95 %, fewer than 34 would be so once in 200 times. The distance itself is too high."""
    held, too_high = 0, 0
    for seed in range(40):
        values = FID(bootstrap=60).measure(subject(*pair(300, seed))).values
        held += values["fid_itself_low"] <= TRUE <= values["fid_itself_high"]
        too_high += values["fid_itself"] > TRUE
    assert held >= 34 and too_high > 30


def test_the_limit_of_infinitely_many_images_has_no_bias(subject) -> None:
    """Means of 30: the distance is 0.1 too high, which is five times the standard error of both."""
    sets = [subject(*pair(300, seed)) for seed in range(30)]
    limits = [FIDInfinity(points=8).measure(s).values["fid_infinity_itself"] for s in sets]
    distances = [FID().measure(s).values["fid_itself"] for s in sets]
    assert sum(distances) / 30 > TRUE + 0.06
    assert sum(limits) / 30 == pytest.approx(TRUE, abs=0.06)


def test_nothing_is_extrapolated_from_too_few_without_a_word(subject) -> None:
    enough = FIDInfinity(points=3, smallest=0.5).measure(subject(*pair(2 * D + 2, seed=0)))
    score = FIDInfinity(points=3, smallest=0.5).measure(subject(*pair(2 * D, seed=0)))
    assert enough.notes == [] and len(score.notes) == 1
    assert score.notes[0].startswith(f"the smallest part: FID of {D} images by {D} features: too few")
    assert score.curves["share_of_images"] == pytest.approx([1, 2 / 3, 0.5])


def test_so_few_images_that_a_covariance_is_singular_have_no_interval(subject) -> None:
    score = FID(bootstrap=5).measure(subject(*pair(D, seed=0)))
    assert list(score.values) == ["fid_itself"]
    assert score.notes[1] == "no interval: resamplings of so few images say nothing about it"
