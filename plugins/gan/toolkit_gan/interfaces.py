"""What a one-shot GAN consists of, and which images its networks can be built for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log2

import torch
from torch import Tensor, nn

from toolkit import Denoiser, NoiseSchedule, Prediction, randn


class Generator(Denoiser, ABC):
    """Images from a latent z ~ N(0, I) alone: a denoiser that draws x_0 on a chain of one step.

    Its x_t is pure noise, of which only the number of rows counts.
    """

    respaceable = False
    schedule: NoiseSchedule
    latent_width: int

    @abstractmethod
    def images(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) near [-1, 1] from z (B, latent_width), of these classes (B,) if it is conditional."""

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        return randn((n, self.latent_width), generators, next(self.parameters()).device)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        z = self.latent(len(x_t), None) if latent is None else latent
        return Prediction(self.schedule, x_t, t, x0=self.images(z, label).float())


class Discriminator(nn.Module, ABC):
    """Judges whether an image is real; as the critic of a Wasserstein GAN, it scores it.

    Attributes:
        conditional: whether this instance asks for the class that an image shall show.
        timed: whether this instance also takes `t` (B,), how strongly each image is augmented.
    """

    conditional: bool = False
    timed: bool = False

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits (B,), high for real, from x (B, ...); label (B,) if the data has classes."""


def doublings(sample_shape: tuple[int, ...]) -> tuple[int, int]:
    """(s, n): the side s, from 4 to 7, of the map that is doubled n times to images of this shape.

    Raises:
        ValueError: if they are not square images with such a side.
    """
    if len(sample_shape) != 3 or sample_shape[1] != sample_shape[2]:
        raise ValueError(f"works on square images (channels, side, side), not on {sample_shape}")
    side = sample_shape[1]
    n = int(log2(max(side, 1) / 4)) if side >= 4 else 0
    if n < 1 or side % 2**n:
        raise ValueError(
            f"doubles a map of 4 to 7 pixels a side until it is the image, which gives no {side}x{side}: set "
            "data.size to a size that it gives (8, 10, 12, 14, 16, 20, 24, 28, 32, ...)"
        )
    return side // 2**n, n


def classes_of(num_classes: int | None, conditional: bool) -> int | None:
    """How many classes a network is told; None for one that is not conditional.

    Raises:
        ValueError: if it shall be conditional, and the data has no labels.
    """
    if conditional and num_classes is None:
        raise ValueError("conditional = true needs labelled data")
    return num_classes if conditional else None


def check_shape(x: Tensor, sample_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the images x (B, ...) have the shape that a network was built for."""
    if x.shape[1:] != sample_shape:
        raise ValueError(f"was built for images {sample_shape}, and cannot judge {tuple(x.shape[1:])}")
