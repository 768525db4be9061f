"""Encoders: the latent space in which a denoiser works, where that is not the image space."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from toolkit.diffusion.start import Saveable


class Encoder(nn.Module, ABC):
    """Turns images into latents and back (Rombach et al. 2022). Frozen while a denoiser trains.

    Latents should have a standard deviation near 1, which noise schedules expect of their data.
    """

    @abstractmethod
    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the latent of an image of `image_shape`, e.g. (4, 8, 8) for (3, 32, 32).

        Raises:
            ValueError: if it cannot encode such images.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Latents (n, *latent_shape) float32 of images (n, C, H, W) in [-1, 1]; deterministic."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, C, H, W) float32, near [-1, 1], from latents."""

    def folders(self) -> Mapping[str, Saveable]:
        """The models it consists of, by the option that names their folder; a pipeline saves them with it."""
        return {}
