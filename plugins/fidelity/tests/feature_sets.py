"""Sets of images or of vectors, and extractors that are known."""

import torch
from torch import Tensor

from toolkit import DataSource, FeatureExtractor, Features


class Images(DataSource):
    """Given images."""

    num_classes = None

    def __init__(self, images: Tensor) -> None:
        self.images, self.image_shape = images, tuple(images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.images[indices], None


class Projection(FeatureExtractor):
    """Random projections: 16 features, 5 logits."""

    name = "projection"

    def __init__(self, seed: int = 0) -> None:
        self.identity = f"projection {seed}"
        self._seed, self.seen = seed, 0

    def extract(self, images: Tensor, device: torch.device) -> Features:
        self.seen += len(images)
        flat = images.flatten(1).float() / 255
        weight = torch.randn(flat.shape[1], 21, generator=torch.Generator().manual_seed(self._seed))
        features, logits = (flat @ weight).split([16, 5], dim=1)
        return Features(features, logits)


class Itself(FeatureExtractor):
    """Vectors, which are their own features."""

    name = identity = "itself"

    def extract(self, images: Tensor, device: torch.device) -> Features:
        return Features(images)
