"""The denoiser that a recipe names."""

from typing import Annotated, Any, Literal, final

from pydantic import Field
from torch import Tensor

from toolkit import (
    TARGETS,
    UNET_LIMITS,
    Denoiser,
    NoiseSchedule,
    Positive,
    Prediction,
    check_unet,
    options_from,
    refuse_target,
    unet_shapes,
)

SUPPLIED_BY_US = (
    "sample_size",
    "in_channels",
    "out_channels",
    "center_input_sample",
    "class_embed_type",
    "num_class_embeds",
    "num_train_timesteps",
)
OF_THE_REPLACED_BLOCKS = (
    "act_fn",
    "resnet_time_scale_shift",
    "mid_block_scale_factor",
    "downsample_type",
    "upsample_type",
)
Down = Literal["DownBlock2D", "AttnDownBlock2D"]
Up = Literal["UpBlock2D", "AttnUpBlock2D"]


@final
class MBConvUNet(Denoiser):
    """diffusers' UNet2DModel with MBConv blocks, and otherwise as the core's `unet`.

    Args:
        block_out_channels: channels of each level, multiples of norm_num_groups.
        down_block_types: one for each level.
        up_block_types: one for each level, the last one first.
        prediction: what the network computes.
        learned_variance: twice the output channels; the second half, as (v + 1) / 2, places the log variance
            between its bounds (Nichol & Dhariwal 2021).
        conditional: learn an embedding of the labels.
        null_class: also of "no class", which `label_dropout` of the objective trains, for guidance.
        time_scale: the network sees this times t; by default 1 on a chain, 1000 on a continuous path.
        expansion: channels inside a block, in multiples of those that enter it.
        se: width of squeeze and excitation, as a fraction of the channels that enter a block.
        init: how blocks begin; all else begins as Ho et al. (2020) do. "zero_last": each block as its
            shortcut; "torch": torch's default; "xavier": as Ho et al. (2020), nearly as the shortcut.

    Raises:
        ValueError: for data that is no images, or that cannot be halved so often; for options that
            contradict each other; if conditional without labels.
    """

    @options_from(
        "diffusers.models.unets.unet_2d:UNet2DModel",
        omit=SUPPLIED_BY_US + OF_THE_REPLACED_BLOCKS,
        limits=UNET_LIMITS,
    )
    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        num_classes: int | None,
        block_out_channels: tuple[Positive, ...],
        down_block_types: tuple[Down, ...],
        up_block_types: tuple[Up, ...],
        prediction: Literal["epsilon", "sample", "v_prediction", "flow"] = "epsilon",
        learned_variance: bool = False,
        conditional: bool = False,
        null_class: bool = False,
        time_scale: Annotated[float, Field(gt=0)] | None = None,
        expansion: Annotated[int, Field(ge=1)] = 4,
        se: Annotated[float, Field(gt=0, le=1)] = 0.25,
        init: Literal["zero_last", "torch", "xavier"] = "zero_last",
        **unet: Any,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        shapes = unet_shapes(sample_shape, levels, num_classes, learned_variance, conditional, null_class)
        lists = {
            "block_out_channels": block_out_channels,
            "down_block_types": down_block_types,
            "up_block_types": up_block_types,
        }
        options = shapes | unet | lists
        check_unet(options, schedule)
        refuse_target(schedule, TARGETS[prediction])
        from toolkit_mbconv.unet import MBConvUNet2DModel  # imports diffusers, which takes seconds

        self.model = MBConvUNet2DModel(expansion=expansion, se=se, **options)
        self.model.initialise(init)
        self._schedule, self._prediction = schedule, prediction
        self._learned_variance, self.conditional, self.null_class = learned_variance, conditional, null_class
        self._time_scale = time_scale or (1.0 if schedule.discrete else 1000.0)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        time = t if self._time_scale == 1 else t * self._time_scale
        out = self.model(x_t, time, label if self.conditional else None, return_dict=False)[0]
        return Prediction.from_output(
            self._schedule, x_t, t, out, TARGETS[self._prediction], self._learned_variance
        )
