"""Discriminators of patches, by which an autoencoder learns to decode sharply."""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from toolkit import Positive

GROUPS = 4


class Discriminator(nn.Module, ABC):
    """Judges which parts of an image are real."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, ...), high for real, of images (B, C, H, W)."""


@final
class PatchDiscriminator(Discriminator):
    """Strided convolutions, a logit for each patch (Isola et al. 2017); group instead of batch normalisation.

    So a row's logits depend on that row alone.

    Args:
        width: channels after the first layer, a multiple of 4; each further layer has twice as many.
        layers: how often the image is halved.

    Raises:
        ValueError: if width is no multiple of 4, or the images cannot be halved so often.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: Positive = 64, layers: Positive = 2) -> None:
        super().__init__()
        if len(sample_shape) != 3 or min(sample_shape[1:]) < 4 * 2**layers:
            raise ValueError(
                f"layers = {layers} is for images of at least {4 * 2**layers} pixels a side, "
                f"not for examples of shape {tuple(sample_shape)}"
            )
        if width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS}, not {width}")
        widths = [width * 2**i for i in range(layers)]
        parts: list[nn.Module] = [
            nn.Conv2d(sample_shape[0], width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for before, after in pairwise([*widths, 2 * widths[-1]]):
            stride = 1 if before == widths[-1] else 2
            parts += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(GROUPS, after),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*parts, nn.Conv2d(2 * widths[-1], 1, 4, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.float()
