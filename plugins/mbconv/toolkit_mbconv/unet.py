"""UNet2DModel with MBConv blocks. A module of its own, since importing diffusers takes seconds."""

from collections.abc import Iterator
from typing import Any, Literal

from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from torch import nn

from toolkit import initialise_xavier, options_from
from toolkit_mbconv.block import MBConv


class MBConvUNet2DModel(UNet2DModel):
    """A UNet2DModel whose residual blocks are MBConv; its attention and its resampling convolutions stay.

    Saves and loads as diffusers' models do, by this class: plain UNet2DModel refuses the weights.

    Args:
        expansion: see MBConv.
        se: see MBConv.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    @options_from("diffusers.models.unets.unet_2d:UNet2DModel")  # as which options the config keeps
    def __init__(self, *, expansion: int = 4, se: float = 0.25, **unet: Any) -> None:
        super().__init__(**unet)
        time_width = self.time_embedding.linear_2.out_features
        for part in (*self.down_blocks, self.mid_block, *self.up_blocks):
            for i, block in enumerate([] if part is None else part.resnets):
                part.resnets[i] = MBConv(
                    block.in_channels,
                    block.out_channels,
                    time_width,
                    expansion=expansion,
                    se=se,
                    groups=self.config.norm_num_groups,
                    eps=self.config.norm_eps,
                    dropout=self.config.dropout,
                )

    def initialise(self, blocks: Literal["zero_last", "torch", "xavier"]) -> None:
        """Begin as Ho et al. (2020) do, but for the blocks, which begin as `blocks` says."""
        mine = [module for module in self.modules() if isinstance(module, MBConv)]
        ends = [self.conv_out]
        ends += [module.to_out[0] for module in self.modules() if isinstance(module, Attention)]
        if blocks == "xavier":
            initialise_xavier(self.modules(), [*ends, *(block.project for block in mine)])
        else:
            initialise_xavier(self._outside(mine), ends)
        if blocks == "zero_last":
            for block in mine:
                nn.init.zeros_(block.project.weight)

    def _outside(self, blocks: list[MBConv]) -> Iterator[nn.Module]:
        inside = {module for block in blocks for module in block.modules()}
        return (module for module in self.modules() if module not in inside)
