"""Feature extractors, by which metrics compare images."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """An extractor's output for n images.

    Attributes:
        features: (n, d) float32, for distances between sets.
        logits: (n, classes) float32, before the softmax, for scores such as IS; None if it has none.
    """

    features: Tensor
    logits: Tensor | None = None


class FeatureExtractor(ABC):
    """Turns images into features. Scores by different extractors cannot be compared.

    Attributes:
        name: part of the names of scores, so that one extractor's FID is not taken for another's.
        identity: a hash of the weights and of everything else that changes features.
    """

    name: str
    identity: str

    @abstractmethod
    def extract(self, images: Tensor, device: torch.device) -> Features:
        """Features of uint8 images (n, C, H, W) of any size, computed on `device`.

        Raises:
            DataError: if it cannot handle such images.
        """
