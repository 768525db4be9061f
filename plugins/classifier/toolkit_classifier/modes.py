"""Which classes samples have: a generator that has lost some draws the others too often."""

from typing import Literal

import torch
from torch import Tensor

from toolkit import Metric, RunError, Score, Subject


class Modes(Metric):
    """Classes among the samples, as the extractor's classifier sees them, and how their shares differ.

    `modes_...` is the number of classes that samples have, of those there should be; `share_...` that number
    as a share; `kl_...` = sum_c p_c log(p_c / q_c), in nats, for shares p of the samples and q of what there
    should be. Of n samples drawn from q it is about (classes - 1) / 2n, and as much more for the real images
    that q is counted from. A class counts as soon as one sample is assigned to it.

    Args:
        reference: there should be what the same classifier sees in the real images, so that what it confuses
            is not the samples' fault; or all its classes alike, "uniform", as GAN papers count the thousand
            modes of StackedMNIST (Metz et al. 2017).
    """

    def __init__(self, reference: Literal["real", "uniform"] = "real") -> None:
        self.reference = reference

    def measure(self, subject: Subject) -> Score:
        generated, real = (features.logits for features in subject.features())
        if generated is None or real is None:
            raise RunError(f"modes are counted by classes, and {subject.extractor} has none")
        counts = classes_of(generated)
        expected = classes_of(real) if self.reference == "real" else torch.ones_like(counts)
        there = expected > 0
        strange = int(counts[~there].sum())
        if strange == len(generated):
            raise RunError("no sample is of a class that the real images have: the divergence is infinite")
        p, q = (share / share.sum() for share in (counts[there], expected[there]))
        present = p > 0
        modes, share, kl = (f"{name}_{subject.extractor}" for name in ("modes", "share", "kl"))
        return Score(
            {
                modes: int(present.sum()),
                share: float(present.double().mean()),
                kl: float((p[present] * (p[present] / q[present]).log()).sum()),
            },
            notes=notes(len(generated), int(there.sum()), strange),
            better={modes: "higher", share: "higher", kl: "lower"},
        )


def classes_of(logits: Tensor) -> Tensor:
    """How many rows of logits (n, classes) are greatest at each class, float64 (classes,)."""
    return logits.argmax(1).bincount(minlength=logits.shape[1]).double()


def notes(n: int, classes: int, strange: int) -> list[str]:
    """Caveats: samples that are few for the number of classes, or of classes that are not counted."""
    result = []
    if n < 10 * classes:
        result.append(
            f"{n:,} samples are few for {classes:,} classes: chance misses some, and the divergence is too "
            "high"
        )
    if strange:
        result.append(f"{strange:,} samples are of classes that no real image has, and are not counted")
    return result
