"""diffusers' UNet2DModel as a denoiser."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from toolkit.denoiser import Denoiser, Prediction
from toolkit.foreign import options_from
from toolkit.schedule import NoiseSchedule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

SUPPLIED_BY_US = (
    "sample_size",
    "in_channels",
    "out_channels",
    "center_input_sample",
    "class_embed_type",
    "num_class_embeds",
    "num_train_timesteps",
)


class UNet(Denoiser):
    """diffusers' UNet2DModel; image sides must be divisible by 2^(levels - 1).

    Args:
        prediction: what the network computes.
        learned_variance: twice the output channels; the second half, as (v + 1) / 2, places the log variance
            between its bounds (Nichol & Dhariwal 2021).
        conditional: learn an embedding of the labels.
        init: "xavier" draws weights as Ho et al. (2020) do: Xavier-uniform, biases zero, and nearly zero
            where a residual branch or the network ends; "torch" is torch's default.
    """

    @options_from("diffusers.models.unets.unet_2d:UNet2DModel", omit=SUPPLIED_BY_US)
    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        num_classes: int | None,
        prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon",
        learned_variance: bool = False,
        conditional: bool = False,
        init: Literal["torch", "xavier"] = "torch",
        **unet: Any,
    ) -> None:
        super().__init__()
        levels = len(unet["block_out_channels"])
        shapes = unet_shapes(sample_shape, levels, num_classes, learned_variance, conditional)
        from diffusers import UNet2DModel

        self.model = UNet2DModel(**shapes, **unet)
        self._schedule, self._prediction = schedule, prediction
        self._learned_variance, self.conditional = learned_variance, conditional
        if init == "xavier":
            _initialise_xavier(self.model)

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Prediction:
        out = self.model(x_t, t, label if self.conditional else None, return_dict=False)[0]
        return Prediction.from_output(self._schedule, x_t, t, out, self._prediction, self._learned_variance)

    def unet(self) -> "UNet2DModel | None":
        return None if self._learned_variance or self.conditional else self.model

    def prediction_type(self) -> str:
        return self._prediction


def unet_shapes(
    sample_shape: tuple[int, ...],
    levels: int,
    num_classes: int | None,
    learned_variance: bool = False,
    conditional: bool = False,
) -> dict[str, Any]:
    """The arguments of a UNet2DModel that follow from what it denoises.

    Raises:
        ValueError: for data that is no images, or none that can be halved between so many levels; for a
            conditional network without classes.
    """
    if len(sample_shape) != 3:
        raise ValueError(f"a UNet works on images (channels, height, width), not on {sample_shape}")
    if conditional and num_classes is None:
        raise ValueError("conditional = true needs labelled data")
    channels, height, width = sample_shape
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"{levels} levels halve the image {levels - 1} times, so {height}x{width} must be divisible "
            f"by {2 ** (levels - 1)}: pad the data (size, fit) or use fewer block_out_channels"
        )
    return {
        "sample_size": (height, width) if height != width else height,
        "in_channels": channels,
        "out_channels": channels * (2 if learned_variance else 1),
        "num_class_embeds": num_classes if conditional else None,
    }


@torch.no_grad()
def initialise_xavier(modules: Iterable[nn.Module], ends: Iterable[nn.Module]) -> None:
    """Xavier-uniform weights and zero biases of convolutions and linear layers, as Ho et al. (2020) begin.

    `ends`, the layers with which a residual branch or the network ends, get the gain 1e-5: each branch
    begins as nearly nothing.
    """
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in ends:
        assert isinstance(module.weight, Tensor)
        nn.init.xavier_uniform_(module.weight, gain=1e-5)


def _initialise_xavier(unet: "UNet2DModel") -> None:
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    ends: list[Any] = [unet.conv_out]
    ends += [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    ends += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention)]
    initialise_xavier(unet.modules(), ends)
