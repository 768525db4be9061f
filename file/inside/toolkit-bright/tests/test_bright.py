"""What every component has to keep, by the toolkit's own kit, and the method's numbers by a closed form."""

import pytest
import torch
from toolkit import NoiseSchedule, testing

from toolkit_bright.conformance import cases
from toolkit_bright.objective import min_snr


@testing.parametrize_with_checks(cases())
def test_conformance(case: testing.Case, check: testing.Check) -> None:
    check(case)


def test_the_weight_is_one_up_to_gamma_and_falls_as_one_over_the_ratio() -> None:
    schedule = NoiseSchedule([0.1, 0.5])  # abar = 0.9 and 0.45: the ratios are 9 and 9/11
    assert min_snr(schedule, torch.tensor([0, 1]), gamma=3.0).tolist() == pytest.approx([1 / 3, 1])
