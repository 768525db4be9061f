"""How finely the noise levels are cut, as training goes on."""

import math
from typing import final

from toolkit import Length, Positive, ScalarSchedule, in_steps


@final
class Doubling(ScalarSchedule):
    """The number of noise levels, doubled in stages of equal length (Song & Dhariwal 2024, section 3.4).

        N(k) = min(start 2^floor(k / K'), end) + 1,      K' = floor(steps / (log2 floor(end / start) + 1))

    Args:
        start: s_0, the first number of intervals; there is one noise level more.
        end: s_1, the last number of intervals.
        steps: K, in which all stages take place; "run" is as long as the run.

    Raises:
        ValueError: if `end` is below `start`, if there are fewer steps than stages, or if the run is to end
            after a time and `steps` is "run".
    """

    def __init__(
        self, start: Positive, end: Positive, steps: Length = "run", run_steps: int | None = None
    ) -> None:
        if end < start:
            raise ValueError(f"end {end} must not be below start {start}")
        total, stages = in_steps(steps, run_steps), math.log2(end // start) + 1
        self.start, self.end, self.stage = start, end, math.floor(total / stages)
        if not self.stage:
            raise ValueError(f"{total} steps are too few to double from {start} to {end}")

    def __call__(self, step: int) -> float:
        doubled = self.start << min(step // self.stage, 64)  # 64 leads beyond any `end`
        return min(doubled, self.end) + 1
