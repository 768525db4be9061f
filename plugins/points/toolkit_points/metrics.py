"""Modes of a grid of Gaussians, and the sliced Wasserstein distance, as metrics."""

from typing import Annotated, Literal

from pydantic import Field

from toolkit import Metric, RunError, Score, Subject, to_float
from toolkit_points.distance import sliced_wasserstein
from toolkit_points.grid import Grid

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Modes25(Metric):
    """Modes of a grid of Gaussians that samples hit, and how sharply; of exact data 98.9 % are within 3 std.

    `modes` counts those with enough samples nearby, `precise` is the share of samples that are near any mode,
    `spread` the standard deviation of these about their mode along an axis, if there are any. The options
    describe the data: real examples are not used.

    Args:
        side: modes along each of the two axes; 5 make the 25 Gaussians of the GAN literature.
        spacing: distance between neighbours; the grid is centred at 0.
        std: standard deviation of each Gaussian.
        within: standard deviations from the nearest mode at which a sample still counts as precise.
        needed: precise samples that make a mode count as found, as a share of all samples; 1/500 is a
            twentieth of what each of 25 equal modes should get.
    """

    def __init__(
        self,
        side: Count = 5,
        spacing: Positive = 1.0,
        std: Positive = 0.05,
        within: Positive = 3.0,
        needed: Annotated[float, Field(gt=0, le=1)] = 1 / 500,
    ) -> None:
        self.grid, self.within, self.needed = Grid(side, spacing, std), within, needed

    def measure(self, subject: Subject) -> Score:
        points, _ = subject.samples()
        if points.ndim != 2 or points.shape[1] != 2:
            raise RunError(
                f"modes25 counts points in a plane, not examples of shape {tuple(points.shape[1:])}"
            )
        coverage = self.grid.judge(points, self.within, self.needed)
        spread = {"spread": coverage.spread} if coverage.precise else {}
        return Score(
            {"modes": coverage.modes, "precise": coverage.precise, **spread},
            better={"modes": "higher", "precise": "higher"},
        )


class SlicedWasserstein(Metric):
    """Wasserstein distance of the sets projected onto lines in many directions (Rabin et al. 2011).

        SW_p = (mean over directions of W_p^p)^(1/p)

    0 is best, but finite sets are never at 0: compare with a second set of real examples. Pictures are taken
    as vectors of their values in [-1, 1]; the two sets may differ in size.

    Args:
        projections: number of directions, uniform on the sphere.
        p: 1 for the mean distance, 2 for the root of the mean square.
        seed: for the directions.
    """

    def __init__(
        self, projections: Count = 128, p: Literal[1, 2] = 2, seed: Annotated[int, Field(ge=0)] = 0
    ) -> None:
        self.projections, self.p, self.seed = projections, p, seed

    def measure(self, subject: Subject) -> Score:
        generated, real = (to_float(x).flatten(1) for x in subject.samples())
        value = sliced_wasserstein(generated, real, self.projections, self.p, self.seed)
        return Score({"sliced_wasserstein": value}, better={"sliced_wasserstein": "lower"})
