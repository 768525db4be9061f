"""Generators: denoisers that draw x_0 given x_t, one draw a latent z."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit import UNET_LIMITS, Denoiser, NoiseSchedule, Prediction, check_unet, options_from, randn
from toolkit_ddgan.embedding import latent_mapping

Count = Annotated[int, Field(ge=1)]


class Generator(Denoiser, ABC):
    """x_0' = G(x_t, t, z) is a draw from p(x_0 | x_t), not its mean (Xiao et al. 2022)."""

    respaceable = False
    schedule: NoiseSchedule
    latent_width: int

    @abstractmethod
    def clean(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x_0' (B, ...) from x_t (B, ...), t (B,) and z (B, latent_width)."""

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
        return Prediction(self.schedule, x_t, t, x0=self.clean(x_t, t, z).float())


def check_divisible(sample_shape: tuple[int, ...], levels: int) -> None:
    """Raise ValueError unless images of this shape can be halved between so many levels."""
    if len(sample_shape) != 3:
        raise ValueError(f"works on images (channels, height, width), not on {sample_shape}")
    if levels < 1:
        raise ValueError("block_out_channels = [] has no level: a generator needs at least one")
    height, width = sample_shape[1:]
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"{levels} levels halve the image {levels - 1} times, so {height}x{width} must be divisible "
            f"by {2 ** (levels - 1)}: pad the data (size, fit) or use fewer block_out_channels"
        )


FIXED = (
    "sample_size",
    "in_channels",
    "out_channels",
    "center_input_sample",
    "time_embedding_dim",
    "time_embedding_type",
    "attn_norm_num_groups",
    "resnet_time_scale_shift",
    "class_embed_type",
    "num_class_embeds",
    "num_train_timesteps",
)


@final
@options_from("diffusers.models.unets.unet_2d:UNet2DModel", omit=FIXED, limits=UNET_LIMITS)
class LightGenerator(Generator):
    """A stock UNet2DModel into which z enters beside the time embedding; small and quick, not as published.

    Both scale and shift the second normalisation of every residual block. The published generator, in which
    z alone modulates both normalisations, is `ddgan_generator`.

    Args:
        block_out_channels: channels of each level.
        norm_num_groups: groups of every GroupNorm, those in attention too.
        latent_width: length of z.
        mapping_width: width of the layers that z passes first.
        mapping_layers: their number, after the first.
        bounded: end in tanh, which latents of an [encoder] must not.

    Raises:
        ValueError: if the image cannot be halved so often, or options contradict each other.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        block_out_channels: tuple[Count, ...],
        norm_num_groups: Count = 32,
        latent_width: Count = 100,
        mapping_width: Count = 256,
        mapping_layers: Annotated[int, Field(ge=0, le=64)] = 3,
        bounded: bool = True,
        **unet: Any,
    ) -> None:
        super().__init__()
        check_divisible(sample_shape, len(block_out_channels))
        channels, height, width = sample_shape
        options = unet | {
            "sample_size": (height, width),
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": block_out_channels,
            "norm_num_groups": norm_num_groups,
            "attn_norm_num_groups": norm_num_groups,  # unset, attention in the middle would lose its norm
            "resnet_time_scale_shift": "scale_shift",
            "class_embed_type": "identity",
        }
        check_unet(options, schedule)
        from diffusers import UNet2DModel

        self.schedule, self.latent_width, self.bounded = schedule, latent_width, bounded
        self.model = UNet2DModel(**options)
        self.mapping = nn.Sequential(
            latent_mapping(latent_width, mapping_width, mapping_layers),
            nn.Linear(mapping_width, 4 * block_out_channels[0]),
        )

    def clean(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.model(x_t, t, self.mapping(z), return_dict=False)[0]
        return out.tanh() if self.bounded else out


@final
class PublishedGenerator(Generator):
    """The U-Net of the paper, NCSN++ (Song et al. 2021) whose normalisations z modulates.

    The defaults are those of the authors' run on CIFAR-10: 48,432,515 parameters.

    Args:
        block_out_channels: channels of each level; each has half the sides of the one before.
        layers_per_block: residual blocks of a level, besides the one that resamples.
        attention_sides: which levels have attention, by the height of their images in pixels.
        latent_width: length of z.
        mapping_width: width of the layers between z and the normalisations.
        mapping_layers: their number, after the first.
        dropout: in every residual block.
        bounded: end in tanh, as published; latents of an [encoder] must not.

    Raises:
        ValueError: if the image cannot be halved so often, or no level has one of the attention_sides.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        block_out_channels: tuple[Annotated[int, Field(ge=4, multiple_of=4)], ...] = (128, 256, 256, 256),
        layers_per_block: Annotated[int, Field(ge=1, le=64)] = 2,
        attention_sides: tuple[int, ...] = (16,),
        latent_width: Count = 100,
        mapping_width: Count = 256,
        mapping_layers: Annotated[int, Field(ge=0, le=64)] = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        check_divisible(sample_shape, len(block_out_channels))
        from toolkit_ddgan.unet import StyledUNet  # imports diffusers, which takes seconds

        self.schedule, self.latent_width, self.bounded = schedule, latent_width, bounded
        self.model = StyledUNet(
            sample_shape,
            block_out_channels,
            layers_per_block,
            attention_sides,
            latent_width,
            mapping_width,
            mapping_layers,
            dropout,
        )

    def clean(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.model(x_t, t, z, return_dict=False)[0]
        return out.tanh() if self.bounded else out
