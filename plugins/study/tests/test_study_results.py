"""Means, their errors and intervals, and the tables in which they stand."""

import pytest

from toolkit_study.report import gap_text, places, plus_minus, table
from toolkit_study.results import estimate


def test_a_mean_has_the_standard_error_and_the_interval_of_students_t() -> None:
    found = estimate({0: 1.0, 1: 2.0, 2: 6.0})
    assert found is not None and found.mean == 3.0
    assert found.error == pytest.approx((7 / 3) ** 0.5)  # variance 7, three numbers
    assert found.interval == pytest.approx((3 - 4.302653 * 1.527525, 3 + 4.302653 * 1.527525), rel=1e-5)
    assert not found.clear


def test_one_number_has_no_error_and_equal_numbers_prove_nothing() -> None:
    one, equal = estimate({0: 5.0}), estimate({0: 5.0, 1: 5.0})
    assert one is not None and one.error is None and one.interval is None and not one.clear
    assert equal is not None and equal.error == 0 and not equal.clear
    assert estimate({}) is None and estimate({0: float("nan"), 1: 1.0}) is None


def test_an_interval_that_leaves_zero_out_is_bold() -> None:
    clear, open_ = estimate({0: 1.0, 1: 1.1, 2: 0.9}), estimate({0: 1.0, 1: -1.1, 2: 0.9})
    assert gap_text(clear) == "**+1.000** [+0.752, +1.248]"
    assert not gap_text(open_).startswith("**")


def test_digits_are_those_that_the_error_allows() -> None:
    assert [places(error) for error in (12.0, 1.2, 0.12, 0.012)] == [0, 1, 2, 3]
    assert plus_minus(estimate({0: 100.0, 1: 104.0})) == "102.0 ± 2.0"


def test_columns_stand_below_one_another_and_empty_ones_are_left_out() -> None:
    assert list(table(["", "empty", "fid"], [["a run", "", "1"], ["b", "", "22.5"]])) == [
        "|       |  fid |",
        "|-------|-----:|",
        "| a run |    1 |",
        "| b     | 22.5 |",
    ]
