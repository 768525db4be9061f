"""IS, KID, precision and recall of feature sets; torch-fidelity computes them.

The name of a score includes the features: "fid_inception" is what the literature calls FID.
"""

from types import ModuleType
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject

Count = Annotated[int, Field(ge=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy's generator takes


def fidelity(module: str) -> ModuleType:
    """A module of torch-fidelity, which takes seconds to import.

    Raises:
        RunError: if it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ModuleNotFoundError as error:
        raise RunError(f"{error.name} is not installed: pip install 'diffusion-toolkit[metrics]'") from None


def needs_two(*sets: Tensor) -> None:
    """Check that sets are large enough for a covariance.

    Raises:
        RunError: if one of them has fewer than two images.
    """
    if min(map(len, sets)) < 2:
        raise RunError("a distance between sets needs at least two images of each")


class KID(Metric):
    """Squared maximum mean discrepancy under a cubic kernel (Binkowski et al. 2018); unbiased, 0 is best.

    Args:
        subsets: number of random subsets to average over.
        subset_size: images in each, or all if there are fewer.
        seed: for the choice of subsets.
    """

    def __init__(self, subsets: Count = 100, subset_size: AtLeastTwo = 1000, seed: Seed = 2020) -> None:
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def measure(self, subject: Subject) -> Score:
        generated, real = (features.features for features in subject.features())
        needs_two(generated, real)
        size = min(self.subset_size, len(generated), len(real))
        result = fidelity("metric_kid").kid_features_to_metric(
            generated, real, kid_subsets=self.subsets, kid_subset_size=size, rng_seed=self.seed, verbose=False
        )
        name = f"kid_{subject.extractor}"
        mean, std = result["kernel_inception_distance_mean"], result["kernel_inception_distance_std"]
        notes = [] if size == self.subset_size else [f"KID of subsets of {size} images: there are no more"]
        return Score({name: mean, f"{name}_std": std}, notes=notes, better={name: "lower"})


class IS(Metric):
    """exp of the mean KL(p(class | image), p(class)) (Salimans et al. 2016); higher is better.

    Args:
        splits: parts of the set, each with a score; the mean and the population deviation are reported.
        seed: for the order in which images are split.
    """

    def __init__(self, splits: Count = 10, seed: Seed = 2020) -> None:
        self.splits, self.seed = splits, seed

    def measure(self, subject: Subject) -> Score:
        generated, _ = subject.features()
        if generated.logits is None:
            raise RunError(f"the Inception score needs logits, and {subject.extractor} has none")
        if len(generated.logits) < self.splits:
            raise RunError(f"{len(generated.logits)} images cannot be split into {self.splits} parts")
        result = fidelity("metric_isc").isc_features_to_metric(
            generated.logits, splits=self.splits, shuffle=True, rng_seed=self.seed
        )
        name = f"is_{subject.extractor}"
        mean, std = result["inception_score_mean"], result["inception_score_std"]
        return Score({name: mean, f"{name}_std": std}, better={name: "higher"})


class Precision(Metric):
    """Share of generated images within the real set's neighbourhoods (Kynkaanniemi et al. 2019): quality.

    Args:
        neighborhood: k; a neighbourhood reaches as far as the k-th nearest image of its own set.
    """

    def __init__(self, neighborhood: Count = 3) -> None:
        self.neighborhood = neighborhood

    def measure(self, subject: Subject) -> Score:
        name = f"precision_{subject.extractor}"
        result = neighbourhoods(subject, self.neighborhood)
        return Score({name: result["precision"]}, better={name: "higher"})


class Recall(Metric):
    """Share of real images within the generated set's neighbourhoods (Kynkaanniemi et al. 2019): coverage.

    Args:
        neighborhood: k; a neighbourhood reaches as far as the k-th nearest image of its own set.
    """

    def __init__(self, neighborhood: Count = 3) -> None:
        self.neighborhood = neighborhood

    def measure(self, subject: Subject) -> Score:
        name = f"recall_{subject.extractor}"
        result = neighbourhoods(subject, self.neighborhood)
        return Score({name: result["recall"]}, better={name: "higher"})


def neighbourhoods(subject: Subject, neighborhood: int) -> dict[str, Any]:
    """torch-fidelity's precision and recall, in parts: matrices of 50,000 images would take 40 GB."""
    generated, real = (features.features for features in subject.features())
    fewest = min(len(generated), len(real))
    if fewest <= neighborhood:
        raise RunError(f"{fewest} images have no {neighborhood}-th neighbours")
    with torch.inference_mode():
        result: dict[str, Any] = fidelity("metric_prc").prc_features_to_metric(
            generated,
            real,
            prc_neighborhood=neighborhood,
            prc_batch_size=1000,
            save_cpu_ram=True,
            verbose=False,
        )
    return result
