"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017).

The distance of few images is too high, by about c / n for n images of each set. Here are the distance, its
confidence interval, and its limit for infinitely many images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject

Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0)]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) of a set of features, float64."""

    mean: Tensor
    covariance: Tensor


def fitted(features: Tensor) -> Gaussian:
    """The Gaussian with the mean and the unbiased covariance of features (n, d).

    In float64, because means over many images lose digits in float32.

    Raises:
        RunError: if there are fewer than two.
    """
    if len(features) < 2:
        raise RunError("a distance between sets needs at least two images of each")
    rows = features.double()
    return Gaussian(rows.mean(0), rows.T.cov())


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), which is 0 for equal Gaussians."""
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # Rounding makes eigenvalues that are 0 slightly negative.
    roots = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt()
    means = (a.mean - b.mean).square().sum()
    return float(means + a.covariance.trace() + b.covariance.trace() - 2 * roots.sum())


class FID(Metric):
    """Frechet distance between Gaussians fitted to the features (Heusel et al. 2017); 0 is best.

    It is biased upwards for few images: compare only at equal numbers of images, or by `fid_infinity`.

    Args:
        bootstrap: resamplings of both sets (Efron 1979), for an interval that holds the distance of
            infinitely many images with a confidence of 95 %; 0 gives none. Each costs as much as the
            distance.
        seed: of the resamplings.
    """

    def __init__(self, bootstrap: Count = 0, seed: Seed = 0) -> None:
        self.bootstrap, self.seed = bootstrap, seed

    def measure(self, subject: Subject) -> Score:
        generated, real = (features.features for features in subject.features())
        name = f"fid_{subject.extractor}"
        value = frechet(fitted(generated), fitted(real))
        values, notes = {name: value}, few(generated, real)
        if self.bootstrap and notes:
            notes.append("no interval: resamplings of so few images say nothing about it")
        elif self.bootstrap:
            resampled = resamplings(generated, real, self.bootstrap, self.seed, subject.progress)
            tail = (1 - CONFIDENCE) / 2
            quantiles = resampled.quantile(torch.tensor([1 - tail, tail], dtype=torch.float64))
            # Resamplings are as much too high as the distance is: mirrored, they are as much too low.
            low, high = (2 * value - quantiles).clamp(min=0).tolist()
            values |= {"standard_error": float(resampled.std()), f"{name}_low": low, f"{name}_high": high}
            notes.append(
                f"from {name}_low to {name}_high is where the distance of infinitely many images lies, with "
                "a confidence of 95 %; the distance itself is too high by its bias"
            )
        return Score(values, notes=notes, better={name: "lower"})


class FIDInfinity(Metric):
    """The Frechet distance for infinitely many images, by extrapolation (Chong & Forsyth 2020).

    Distances of random parts of both sets are fitted by a line in 1 / share; the line's value at 0 has no
    bias of order 1 / n. (The paper cuts the generated images alone, because its real ones are all there are.)
    It may be below 0 where the true distance is near 0.

    Args:
        points: number of parts.
        smallest: share of the images in the smallest part.
        seed: of the choice of parts.
    """

    def __init__(
        self,
        points: Annotated[int, Field(ge=2)] = 15,
        smallest: Annotated[float, Field(gt=0, lt=1)] = 0.25,
        seed: Seed = 0,
    ) -> None:
        self.points, self.smallest, self.seed = points, smallest, seed

    def measure(self, subject: Subject) -> Score:
        sets = [features.features for features in subject.features()]
        draw = torch.Generator().manual_seed(self.seed)

        def part(features: Tensor, share: float) -> Tensor:
            return features[torch.randperm(len(features), generator=draw)[: round(share * len(features))]]

        inverse = torch.linspace(1, 1 / self.smallest, self.points, dtype=torch.float64)
        distances = []
        for done, x in enumerate(inverse.tolist()):
            distances.append(frechet(*(fitted(part(s, 1 / x)) for s in sets)))
            subject.progress(done + 1, self.points)
        # By its formula: the bits of torch.linalg.lstsq depend on where its numbers lie in memory.
        x, y = inverse - inverse.mean(), torch.tensor(distances, dtype=torch.float64)
        limit = y.mean() - (x @ y) / (x @ x) * inverse.mean()
        name = f"fid_infinity_{subject.extractor}"
        return Score(
            {name: float(limit)},
            curves={"share_of_images": (1 / inverse).tolist(), "fid": distances},
            notes=[f"the smallest part: {note}" for note in few(*(part(s, self.smallest) for s in sets))],
            better={name: "lower"},
        )


def resamplings(
    generated: Tensor, real: Tensor, times: int, seed: int, progress: Callable[[int, int], None]
) -> Tensor:
    """Distances of sets of the same sizes, drawn from these with replacement, (times,) float64."""
    draw = torch.Generator().manual_seed(seed)
    values = []
    for done in range(times):
        sets = [s[torch.randint(len(s), (len(s),), generator=draw)] for s in (generated, real)]
        values.append(frechet(fitted(sets[0]), fitted(sets[1])))
        progress(done + 1, times)
    return torch.tensor(values, dtype=torch.float64)


def few(generated: Tensor, real: Tensor) -> list[str]:
    """A caveat if a set has too few images for a covariance of full rank: n span n - 1 directions."""
    images, width = min(len(generated), len(real)), generated.shape[1]
    if images > width:
        return []
    return [
        f"FID of {images:,} images by {width:,} features: too few, a covariance is singular and the distance "
        "too high"
    ]
