"""Autoencoders with a Gaussian code: an encoder for latent diffusion, and a decoder that samples."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit import Denoiser, Encoder, NoiseSchedule, Positive, Prediction, options_from, randn


class Autoencoder(Denoiser, Encoder, ABC):
    """q(z given x) = N(mean, exp(log variance)), and a decoder of z (Kingma & Welling 2014).

    As an `Encoder` its latents are the mean of z times `scale`. As a `Denoiser` it draws x_0 from z ~ N(0, I)
    and from nothing else, on a chain of one step, like the generator of a GAN.

    Attributes:
        scale: a buffer (): 1 / the standard deviation of the means over the data, which training measures.
    """

    respaceable = False
    sample_shape: tuple[int, ...]
    schedule: NoiseSchedule | None
    scale: Tensor

    @abstractmethod
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z, both (B, *latent) float32, for images (B, C, H, W)."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 from z (B, *latent)."""

    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The weight that makes the image, by whose gradients losses of the image are balanced."""

    def encode(self, images: Tensor) -> Tensor:
        return self.posterior(images)[0] * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return self.reconstruct(latents / self.scale)

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor:
        return randn((n, *self.latent_shape(self.sample_shape)), generators, self.scale.device)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        assert self.schedule is not None, "without a [schedule] nothing samples"
        z = self.latent(len(x_t), None) if latent is None else latent
        return Prediction(self.schedule, x_t, t, x0=self.reconstruct(z))


DERIVED = (  # follow from the images and the levels, or are of diffusers' own pipelines
    "in_channels", "out_channels", "down_block_types", "up_block_types", "sample_size", "scaling_factor",
    "shift_factor", "latents_mean", "latents_std", "force_upcast",
)  # fmt: skip
LIMITS: Mapping[str, Any] = {
    "block_out_channels": tuple[Positive, ...],
    "layers_per_block": Annotated[int, Field(ge=1, le=64)],
    "act_fn": Literal["silu", "swish", "mish", "gelu", "relu"],
    "latent_channels": Positive,
    "norm_num_groups": Positive,
    "use_quant_conv": bool,
    "use_post_quant_conv": bool,
    "mid_block_add_attention": bool,
}


@final
class KLAutoencoder(Autoencoder):
    """diffusers' AutoencoderKL (Rombach et al. 2022).

    Args:
        block_out_channels: of each level; every level but the last halves the image.
        layers_per_block: residual blocks of a level, one more in the decoder.
        latent_channels: of z.
        norm_num_groups: groups of every GroupNorm.

    Raises:
        ValueError: if the data is no images, or they cannot be halved so often.
    """

    @options_from("diffusers.models.autoencoders.autoencoder_kl:AutoencoderKL", omit=DERIVED, limits=LIMITS)
    def __init__(
        self,
        sample_shape: tuple[int, ...],
        block_out_channels: tuple[Positive, ...],
        schedule: NoiseSchedule | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if not block_out_channels:
            raise ValueError("block_out_channels = [] has no level: an autoencoder needs at least one")
        if len(sample_shape) != 3:
            raise ValueError(f"works on images (channels, height, width), not on {tuple(sample_shape)}")
        levels, self.factor = len(block_out_channels), 2 ** (len(block_out_channels) - 1)
        from diffusers import AutoencoderKL  # takes seconds

        self.sample_shape, self.schedule = tuple(sample_shape), schedule
        self._latent_channels = int(options["latent_channels"])
        self.latent_shape(sample_shape)
        self.model: Any = AutoencoderKL(
            in_channels=sample_shape[0],
            out_channels=sample_shape[0],
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=block_out_channels,
            **options,
        )
        self.register_buffer("scale", torch.ones(()))

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        channels = self.sample_shape[0]
        if len(image_shape) != 3 or image_shape[0] != channels:
            raise ValueError(f"encodes images of {channels} channels, not data of shape {tuple(image_shape)}")
        _, height, width = image_shape
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"makes images {self.factor} times smaller, which {height}x{width} cannot be: pad the data "
                "(size, fit) or use fewer block_out_channels"
            )
        return (self._latent_channels, height // self.factor, width // self.factor)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        code = self.model.encode(images).latent_dist  # its log variance is clamped to [-30, 20]
        return code.mean.float(), code.logvar.float()

    def reconstruct(self, z: Tensor) -> Tensor:
        images: Tensor = self.model.decode(z).sample
        return images.float()

    def last_layer(self) -> nn.Parameter:
        weight: nn.Parameter = self.model.decoder.conv_out.weight
        return weight
