"""Encoders: the space in which a denoiser works, when that is not the images' own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from toolkit.diffusion.start import Saveable


class Encoder(nn.Module, ABC):
    """Turns images into latents and back (Rombach et al. 2022). It is frozen while a denoiser trains.

    Latents should have a standard deviation near 1, as every noise schedule expects of its data.
    """

    @abstractmethod
    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one latent, for images of one shape, e.g. (4, 8, 8) for (3, 32, 32).

        Raises:
            ValueError: if it cannot encode such images.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, *latent_shape) float32 of images (n, C, H, W) in [-1, 1]; nothing is drawn."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, C, H, W) float32, near [-1, 1], from latents."""

    def folders(self) -> Mapping[str, Saveable]:
        """The saved models that it consists of, by the option that says where they lie: saved along."""
        return {}
