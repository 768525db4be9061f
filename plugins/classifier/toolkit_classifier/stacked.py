"""Pictures whose channels are images of their own: StackedMNIST's thousand modes (Metz et al. 2017)."""

from pathlib import Path

import torch
from torch import Tensor

from toolkit import CheckpointError, DataError, FeatureExtractor, Features, Metric, RunError, Score, Subject
from toolkit_classifier.extractor import ClassifierFeatures


class StackedFeatures(FeatureExtractor):
    """A one-channel classifier applied to each channel of a picture; together, the classes make its class.

    The first channel counts most: digits R, G and B make class 100 R + 10 G + B. Features are those of the
    channels side by side, logits are the log probabilities of all combinations of classes.

    Args:
        path: the folder of a run that trained a classifier of one channel, or of the network that it saved.

    Raises:
        CheckpointError: if there is no classifier, or it takes several channels.
    """

    def __init__(self, path: Path) -> None:
        self._one = ClassifierFeatures(path)
        if self._one.channels != 1:
            raise CheckpointError(f"{path}: looks at {self._one.channels} channels at once, not at one")
        self.name, self.identity = f"stacked_{self._one.name}", f"stacked {self._one.identity}"

    def extract(self, images: Tensor, device: torch.device) -> Features:
        if images.ndim != 4:
            raise DataError(
                f"{self.name} looks at pictures, not at examples of shape {tuple(images.shape[1:])}"
            )
        n, channels = images.shape[:2]
        extracted = self._one.extract(images.flatten(0, 1).unsqueeze(1), device)
        assert extracted.logits is not None
        each = extracted.logits.log_softmax(1).view(n, channels, -1)
        together = torch.zeros(n, 1)
        for channel in each.unbind(1):
            together = (together[:, :, None] + channel[:, None, :]).flatten(1)
        return Features(extracted.features.view(n, -1), together)


class StackedModes(Metric):
    """Number of classes among the samples, and KL divergence of the classes' shares from uniform ones.

    `modes_...` is what GAN papers count of StackedMNIST's 1000, `kl_...` = sum_c p_c log(p_c classes), in
    nats. For n samples from uniform classes it is about (classes - 1) / 2n: 0.019 for 1000 classes and 26,000
    samples, as in the literature. A class counts as soon as one sample is assigned to it.
    """

    def measure(self, subject: Subject) -> Score:
        generated, _ = subject.features()
        if generated.logits is None:
            raise RunError(f"modes are counted by classes, and {subject.extractor} has none")
        n, classes = generated.logits.shape
        counts = generated.logits.argmax(1).bincount(minlength=classes)
        shares = counts[counts > 0].double() / n
        modes, kl = (f"{name}_{subject.extractor}" for name in ("modes", "kl"))
        return Score(
            {modes: int((counts > 0).sum()), kl: float((shares * (shares * classes).log()).sum())},
            notes=notes(n, classes),
            better={modes: "higher", kl: "lower"},
        )


def notes(n: int, classes: int) -> list[str]:
    """A caveat if the samples are few for the number of classes."""
    if n >= 10 * classes:
        return []
    return [
        f"{n:,} samples are few for {classes:,} classes: chance misses some, and the divergence is too high"
    ]
