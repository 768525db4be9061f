"""Metrics by nearest neighbours: are generated images near real ones, and real ones near generated ones?

A neighbourhood of an image is the ball that reaches as far as the k-th nearest other image of its own set.
"""

import math
from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject

Count = Annotated[int, Field(ge=1)]
ROWS = 1000  # of a matrix of distances at once: all of 50,000 images would take 20 GB


class Precision(Metric):
    """Share of generated images within the real set's neighbourhoods (Kynkaanniemi et al. 2019): quality.

    Args:
        neighborhood: k.
    """

    def __init__(self, neighborhood: Count = 3) -> None:
        self.neighborhood = neighborhood

    def measure(self, subject: Subject) -> Score:
        generated, real = feature_sets(subject, self.neighborhood)
        return within(f"precision_{subject.extractor}", generated, real, self.neighborhood)


class Recall(Metric):
    """Share of real images within the generated set's neighbourhoods (Kynkaanniemi et al. 2019): coverage.

    A few generated images far from all others have wide neighbourhoods, which cover much: `coverage` is
    not misled by them.

    Args:
        neighborhood: k.
    """

    def __init__(self, neighborhood: Count = 3) -> None:
        self.neighborhood = neighborhood

    def measure(self, subject: Subject) -> Score:
        generated, real = feature_sets(subject, self.neighborhood)
        return within(f"recall_{subject.extractor}", real, generated, self.neighborhood)


class Density(Metric):
    """Neighbourhoods of real images that a generated image is in, on average, over k (Naeem et al. 2020).

    It is 1 if both sets are drawn alike, and above 1 where generated images crowd where real ones are dense.

    Args:
        neighborhood: k.
    """

    def __init__(self, neighborhood: Count = 5) -> None:
        self.neighborhood = neighborhood

    def measure(self, subject: Subject) -> Score:
        generated, real = feature_sets(subject, self.neighborhood)
        reach = radii(real, self.neighborhood)
        inside = sum(int((rows < reach).sum()) for rows in distances(generated, real))
        value = inside / (self.neighborhood * len(generated))
        name = f"density_{subject.extractor}"
        return Score({name: value}, better={name: "higher"})


class Coverage(Metric):
    """Share of real images that have a generated one in their neighbourhood (Naeem et al. 2020).

    If both sets are drawn alike it is 1 - (N-1)...(N-k) / (M+N-1)...(M+N-k) for N real and M generated
    images, 0.97 for k = 5 and as many of both; a note says how much that is.

    Args:
        neighborhood: k.
    """

    def __init__(self, neighborhood: Count = 5) -> None:
        self.neighborhood = neighborhood

    def measure(self, subject: Subject) -> Score:
        generated, real = feature_sets(subject, self.neighborhood)
        nearest = torch.cat([rows.amin(1) for rows in distances(real, generated)])
        name = f"coverage_{subject.extractor}"
        covered = (nearest < radii(real, self.neighborhood)).double().mean()
        n, m = len(real), len(generated)
        alike = 1 - math.prod((n - i) / (m + n - i) for i in range(1, self.neighborhood + 1))
        note = f"coverage is {alike:.3f} if {m:,} generated and {n:,} real images are drawn alike"
        return Score({name: float(covered)}, notes=[note], better={name: "higher"})


def feature_sets(subject: Subject, neighborhood: int) -> tuple[Tensor, Tensor]:
    """Features of the generated and of the real images, each enough for k neighbours.

    Raises:
        RunError: if they are not.
    """
    generated, real = (features.features for features in subject.features())
    fewest = min(len(generated), len(real))
    if fewest <= neighborhood:
        raise RunError(f"{fewest} images have no {neighborhood}-th neighbours")
    return generated, real


def within(name: str, images: Tensor, others: Tensor, neighborhood: int) -> Score:
    """The share of images in a neighbourhood of the others, as a score."""
    reach = radii(others, neighborhood)
    inside = torch.cat([(rows <= reach).any(1) for rows in distances(images, others)])
    return Score({name: float(inside.double().mean())}, better={name: "higher"})


def radii(features: Tensor, neighborhood: int) -> Tensor:
    """Distance of each image (n, d) to the k-th nearest other one, (n,)."""
    # The first neighbour of an image is itself.
    return torch.cat([rows.kthvalue(neighborhood + 1).values for rows in distances(features, features)])


def distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances (rows, m) of rows of a (n, d) to all of b (m, d), float64; of copies exactly 0."""
    b = b.double()
    of_b = b.square().sum(1)
    for rows in a.double().split(ROWS):
        scale = rows.square().sum(1, keepdim=True) + of_b
        squares = scale - 2 * rows @ b.T
        # Rounding leaves copies some 1e-16 of the scale apart, to either side.
        yield torch.where(squares > 1e-12 * scale, squares, 0.0).sqrt()
