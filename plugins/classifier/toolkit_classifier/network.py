"""Networks that classify images."""

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

Count = Annotated[int, Field(ge=1)]
SMALLEST = 8  # pixels: three halvings would leave less than one of anything smaller


class Classifier(nn.Module, ABC):
    """Features of an image, and logits of its classes, which are linear in them.

    Attributes:
        image_shape: (channels, height, width) of the images that it was made for.
    """

    image_shape: tuple[int, int, int]

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, width) of images (B, C, H, W) in [-1, 1]."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of features (B, width)."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) in [-1, 1]."""
        return self.classify(self.features(images))


class ConvolutionalClassifier(Classifier):
    """Three stages of two 3x3 convolutions, each of which halves the size; a global mean, and two layers.

    It uses batch normalisation, which learns digits in far fewer steps than group normalisation (README.md),
    so training depends on the size of the micro-batch. In eval mode an image's features depend on it alone.

    Args:
        channels: width of the first stage; the next ones have two and four times as many channels.
        width: number of features.
        dropout: share of features that training hides from the last layer.

    Raises:
        ValueError: if the examples are not labelled pictures with 1 or 3 channels, of at least 8x8 pixels.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        num_classes: int | None,
        channels: Count = 16,
        width: Count = 128,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if num_classes is None:
            raise ValueError("a classifier needs labelled data")
        if len(sample_shape) != 3 or sample_shape[0] not in (1, 3) or min(sample_shape[1:]) < SMALLEST:
            raise ValueError(
                f"looks at pictures with 1 or 3 channels and at least {SMALLEST}x{SMALLEST} pixels, "
                f"not at examples of shape {tuple(sample_shape)}"
            )
        self.image_shape = (sample_shape[0], sample_shape[1], sample_shape[2])
        widths = (sample_shape[0], channels, 2 * channels, 4 * channels)
        self.stages = nn.Sequential(*map(_stage, widths[:-1], widths[1:]))
        self.embed = nn.Linear(widths[-1], width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def features(self, images: Tensor) -> Tensor:
        pooled = self.stages(images).mean(dim=(2, 3))
        return torch.relu(self.embed(pooled))

    def classify(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(features))
        return logits


def _stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        *_convolution(inputs, outputs),
        *_convolution(outputs, outputs),
        nn.MaxPool2d(2, ceil_mode=True),
    )


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
