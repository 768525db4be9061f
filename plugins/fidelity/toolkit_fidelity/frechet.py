"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject


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

    It is biased upwards for few images: compare only at equal numbers of images.
    """

    def measure(self, subject: Subject) -> Score:
        generated, real = (features.features for features in subject.features())
        name = f"fid_{subject.extractor}"
        value = frechet(fitted(generated), fitted(real))
        return Score({name: value}, notes=few(generated, real), better={name: "lower"})


def few(generated: Tensor, real: Tensor) -> list[str]:
    """A caveat if a set has too few images for a covariance of full rank: n span n - 1 directions."""
    images, width = min(len(generated), len(real)), generated.shape[1]
    if images > width:
        return []
    return [
        f"FID of {images:,} images by {width:,} features: too few, a covariance is singular and the distance "
        "too high"
    ]
