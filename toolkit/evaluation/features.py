"""Feature extractors: what image metrics compare images by."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What an extractor says of n images.

    Attributes:
        features: (n, d) float32, for distances between sets.
        logits: (n, classes) float32 before a softmax, for scores by confidence; None if it has none.
    """

    features: Tensor
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """Turns images into features. Scores by different extractors cannot be compared.

    Attributes:
        name: goes into the names of scores, so that nobody takes one extractor's FID for another's.
        identity: a hash of the weights and of all else that changes features.
    """

    name: str
    identity: str

    @abstractmethod
    def extract(self, images: Tensor, device: torch.device) -> Features:
        """Features of uint8 images (n, channels, height, width) of any size, computed on `device`.

        Raises:
            DataError: if it cannot look at such images.
        """
