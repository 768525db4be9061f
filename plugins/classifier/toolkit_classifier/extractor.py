"""A trained classifier as a feature extractor for image metrics."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit import CheckpointError, DataError, FeatureExtractor, Features, load_network, to_float
from toolkit_classifier.network import Classifier

BATCH = 256
PREPARATION = "8 bits to [-1, 1]; another size bilinearly, antialiased, to the classifier's own"


class ClassifierFeatures(FeatureExtractor):
    """Features of a trained classifier: the input of its last layer, and its logits.

    Its name has the first digits of its identity, so that scores by two classifiers have different names.

    Args:
        path: the folder of a run that trained a classifier, or of the network that it saved.

    Raises:
        CheckpointError: if there is no classifier.
    """

    def __init__(self, path: Path) -> None:
        saved = load_network(path)
        if not isinstance(saved.network, Classifier):
            raise CheckpointError(
                f"{path}: holds a {type(saved.network).__name__}, which is not a classifier"
            )
        self._classifier = saved.network
        self.identity = hashlib.sha256(f"{saved.identity} {PREPARATION}".encode()).hexdigest()
        self.name = f"classifier_{self.identity[:8]}"
        self.channels = saved.network.image_shape[0]

    def extract(self, images: Tensor, device: torch.device) -> Features:
        channels, *size = self._classifier.image_shape
        if images.ndim != 4 or images.shape[1] != channels:
            raise DataError(
                f"{self.name} looks at pictures with {channels} channel{'s' if channels > 1 else ''}, not at "
                f"examples of shape {tuple(images.shape[1:])}"
            )
        self._classifier.to(device)
        features, logits = [], []
        with torch.inference_mode():
            for batch in images.split(BATCH):
                x = to_float(batch.to(device))
                if list(x.shape[2:]) != size:
                    x = F.interpolate(x, size, mode="bilinear", antialias=True)
                features.append(self._classifier.features(x))
                logits.append(self._classifier.classify(features[-1]))
        return Features(torch.cat(features).cpu(), torch.cat(logits).cpu())
