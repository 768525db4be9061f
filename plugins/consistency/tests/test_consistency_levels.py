"""The curriculum and the law of noise levels, against published numbers."""

import math
from itertools import pairwise

import pytest
import torch
from consistency_parts import edm

from toolkit import RecipeError, ScalarSchedule
from toolkit_consistency.curriculum import Doubling
from toolkit_consistency.levels import NoiseLevels


def test_the_curriculum_is_the_published_one() -> None:
    """s_0 = 10, s_1 = 1280 in 400,000 steps: eight stages of 50,000."""
    curriculum = Doubling(10, 1280, 400_000)
    stages = [curriculum(50_000 * i) for i in range(8)]
    assert stages == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert [curriculum(50_000 * i - 1) for i in range(1, 8)] == stages[:-1]
    assert curriculum(10**9) == 1281


def test_stages_that_are_no_powers_of_two_follow_the_formula_too() -> None:
    assert {Doubling(7, 13, 5)(step) for step in range(5)} == {8}  # log2 floor(13 / 7) = 0: one stage
    assert [Doubling(3, 10, 4)(step) for step in range(5)] == [4, 7, 11, 11, 11]  # K' = floor(4 / 2.58)


def test_it_is_as_long_as_the_run_unless_it_says_otherwise() -> None:
    assert [Doubling(10, 1280, run_steps=400_000)(step) for step in (49_999, 50_000)] == [11, 21]
    assert Doubling(10, 1280, 40_000, run_steps=400_000)(5000) == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((10, 5, 100), "end 5 must not be below start 10"),
        ((1, 1024, 10), "10 steps are too few to double"),
        ((10, 20), "needs an end of the run in steps"),
    ],
)
def test_what_cannot_double_is_refused(options: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Doubling(*options)


def test_levels_are_the_grid_of_the_path_upside_down() -> None:
    levels = NoiseLevels(edm(), 18, -1.1, 2.0).at(0)
    assert levels.tolist() == list(edm().grid(18, None)[:-1])[::-1]
    assert levels[[0, -1]].tolist() == pytest.approx([0.002, 80.0])


def test_pairs_are_neighbours_and_drawn_by_the_published_law() -> None:
    mean, std, n = -1.1, 2.0, 200_000
    law = NoiseLevels(edm(), 11, mean, std)
    torch.manual_seed(0)
    low, high = law.draw(n, 0, torch.device("cpu"))
    levels = law.at(0).float()
    index = torch.searchsorted(levels, low)
    assert torch.equal(levels[index], low) and torch.equal(levels[index + 1], high)
    below = [math.erf((math.log(sigma) - mean) / (math.sqrt(2) * std)) for sigma in levels.tolist()]
    expected = torch.tensor([b - a for a, b in pairwise(below)])
    assert torch.allclose(index.bincount(minlength=10) / n, expected / expected.sum(), atol=0.005)


def test_a_schedule_is_rounded_and_may_not_fall_below_two_levels() -> None:
    class Falling(ScalarSchedule):
        def __call__(self, step: int) -> float:
            return 3.6 - step

    law = NoiseLevels(edm(), Falling(), 0.0, 1.0)
    assert [len(law.at(step)) for step in (0, 1)] == [4, 3]
    with pytest.raises(RecipeError, match="discretization is 1 in step 3, and must be at least 2"):
        law.at(3)
