"""Cross-entropy of labels, in one turn."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from toolkit import Batch, Loss, Objective, Step, Turn
from toolkit_classifier.network import Classifier


class Classification(Objective):
    """Trains a classifier by the cross-entropy of the labels.

    Args:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        shift: move each training image by up to this many pixels down or up, and across, drawn anew every
            time; its border is repeated into the gap.

    Raises:
        ValueError: if the data has no labels.
    """

    roles = {"classifier": Classifier}
    samples = None

    def __init__(
        self,
        num_classes: int | None,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        shift: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__()
        if num_classes is None:
            raise ValueError("learns from labels, and this data has none")
        self.label_smoothing, self.shift = label_smoothing, shift

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("classifier", trains=("classifier",), loss=self._train),)

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("classifier", trains=(), loss=self._measure),)

    def _train(self, batch: Batch, step: Step) -> Loss:
        images = shifted(batch.images, self.shift) if self.shift else batch.images
        return self._loss(images, batch.labels, step, self.label_smoothing)

    def _measure(self, batch: Batch, step: Step) -> Loss:
        return self._loss(batch.images, batch.labels, step, label_smoothing=0)

    def _loss(self, images: Tensor, labels: Tensor | None, step: Step, label_smoothing: float) -> Loss:
        assert labels is not None
        logits = step.networks["classifier"](images).float()
        accuracy = (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return Loss(loss, {"accuracy": accuracy})


def shifted(images: Tensor, limit: int) -> Tensor:
    """Images (B, C, H, W), each moved by -limit..limit pixels down and across; draws (2, B, 1) integers."""
    n, _, height, width = images.shape
    device = images.device
    down, across = torch.randint(2 * limit + 1, (2, n, 1), device=device)
    rows = down + torch.arange(height, device=device)  # (B, H), of the padded image
    columns = across + torch.arange(width, device=device)  # (B, W)
    padded = F.pad(images, (limit,) * 4, mode="replicate")
    image = torch.arange(n, device=device).view(n, 1, 1)
    # Indices on both sides of the slice put its dimension last.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
