"""diffusers' UNet2DModel as a denoiser."""

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
        if len(sample_shape) != 3:
            raise ValueError(f"a UNet works on images (channels, height, width), not on {sample_shape}")
        if conditional and num_classes is None:
            raise ValueError("conditional = true needs labelled data")
        from diffusers import UNet2DModel

        channels, height, width = sample_shape
        levels = len(unet["block_out_channels"])
        if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
            raise ValueError(
                f"{levels} levels halve the image {levels - 1} times, so {height}x{width} must be divisible "
                f"by {2 ** (levels - 1)}: pad the data (size, fit) or use fewer block_out_channels"
            )
        self.model = UNet2DModel(
            sample_size=(height, width) if height != width else height,
            in_channels=channels,
            out_channels=channels * (2 if learned_variance else 1),
            num_class_embeds=num_classes if conditional else None,
            **unet,
        )
        self._schedule, self._prediction = schedule, prediction
        self._learned_variance, self.conditional = learned_variance, conditional
        if init == "xavier":
            initialise_xavier(self.model)

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Prediction:
        out = self.model(x_t, t, label if self.conditional else None, return_dict=False)[0].float()
        fraction = None
        if self._learned_variance:
            out, v = out.chunk(2, dim=1)
            fraction = (v + 1) / 2
        name = {"epsilon": "noise", "sample": "x0", "v_prediction": "velocity"}[self._prediction]
        return Prediction(self._schedule, x_t, t, variance_fraction=fraction, **{name: out})

    def unet(self) -> "UNet2DModel | None":
        return None if self._learned_variance or self.conditional else self.model

    def prediction_type(self) -> str:
        return self._prediction


@torch.no_grad()
def initialise_xavier(unet: "UNet2DModel") -> None:
    """Xavier-uniform weights, zero biases; gain 1e-5 where a branch or the network ends (Ho et al. 2020)."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    for module in unet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    last: list[Any] = [unet.conv_out]
    last += [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention)]
    for module in last:
        nn.init.xavier_uniform_(module.weight, gain=1e-5)
