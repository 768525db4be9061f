"""Pictures whose channels are images of their own: StackedMNIST's thousand modes (Metz et al. 2017)."""

from pathlib import Path

import torch
from torch import Tensor

from toolkit import CheckpointError, DataError, FeatureExtractor, Features
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
