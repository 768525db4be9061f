"""How finely the noise levels are cut, as training goes on."""

import math
from typing import final

from toolkit import Positive, ScalarSchedule


@final
class Doubling(ScalarSchedule):
    """The number of noise levels, doubled in stages of equal length (Song & Dhariwal 2024, section 3.4).

        N(k) = min(start 2^floor(k / K'), end) + 1,      K' = floor(steps / (log2 floor(end / start) + 1))

    Args:
        start: s_0, the first number of intervals; there is one noise level more.
        end: s_1, the last number of intervals.
        steps: K, of the whole run; of equally long stages the last one may go on after it.

    Raises:
        ValueError: if `end` is below `start`, or if there are fewer steps than stages.
    """

    def __init__(self, start: Positive, end: Positive, steps: Positive) -> None:
        if end < start:
            raise ValueError(f"end {end} must not be below start {start}")
        stages = math.log2(end // start) + 1
        self.start, self.end, self.stage = start, end, math.floor(steps / stages)
        if not self.stage:
            raise ValueError(f"{steps} steps are too few to double from {start} to {end}")

    def __call__(self, step: int) -> float:
        doubled = self.start << min(step // self.stage, 64)  # 64 leads beyond any `end`
        return min(doubled, self.end) + 1
