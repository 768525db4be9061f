"""The kernel distance: a distance between sets that few images do not bias."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject

AtLeastTwo = Annotated[int, Field(ge=2)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy's generator takes


class KID(Metric):
    """Squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018); unbiased, 0 is best.

    Args:
        subsets: number of random subsets to average over.
        subset_size: images in each, or all if there are fewer.
        seed: for the choice of subsets, by numpy's generator, as torch-fidelity chooses them.
    """

    def __init__(self, subsets: Count = 100, subset_size: AtLeastTwo = 1000, seed: Seed = 2020) -> None:
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def measure(self, subject: Subject) -> Score:
        generated, real = (features.features for features in subject.features())
        size = min(self.subset_size, len(generated), len(real))
        if size < 2:
            raise RunError("a distance between sets needs at least two images of each")
        draw = np.random.RandomState(self.seed)
        values = []
        for done in range(self.subsets):
            chosen = [torch.from_numpy(draw.choice(len(s), size, replace=False)) for s in (generated, real)]
            values.append(discrepancy(generated[chosen[0]], real[chosen[1]]))
            subject.progress(done + 1, self.subsets)
        name = f"kid_{subject.extractor}"
        notes = [] if size == self.subset_size else [f"KID of subsets of {size} images: there are no more"]
        return Score(
            {name: float(np.mean(values)), f"{name}_std": float(np.std(values))},
            notes=notes,
            better={name: "lower"},
        )


def discrepancy(a: Tensor, b: Tensor) -> float:
    """Unbiased MMD^2 of two sets (m, d): mean k(a, a') + mean k(b, b') - 2 mean k(a, b), a not a'."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1).double() ** 3

    def mean_of_others(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return float(mean_of_others(kernel(a, a)) + mean_of_others(kernel(b, b)) - 2 * kernel(a, b).mean())
