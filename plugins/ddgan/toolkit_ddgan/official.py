"""Names and layouts of the authors' generator checkpoints, netG_<epoch>.pth.

Their state dict counts modules in the order in which they are built: `all_modules.<i>`, and apart from that
`z_transform.<i>`, the mapping of z. The kernels of its blurs are not in it.
"""

from collections.abc import Iterator
from itertools import chain
from types import MappingProxyType
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from toolkit_ddgan.blocks import PyramidConv, ResidualBlock

# Our parts of a block -> theirs. What is not here, a layer of its own, has none.
PARTS = MappingProxyType({
    ResidualBlock: {
        "norm1.style": "GroupNorm_0.style", "conv1": "Conv_0", "time": "Dense_0",
        "norm2.style": "GroupNorm_1.style", "conv2": "Conv_1", "shortcut": "Conv_2",
    },
    Attention: {
        "group_norm": "GroupNorm_0", "to_q": "NIN_0", "to_k": "NIN_1", "to_v": "NIN_2", "to_out.0": "NIN_3",
    },
    PyramidConv: {"conv": "Conv2d_0"},
})  # fmt: skip


def official_modules(unet: Any) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a StyledUNet by their official names, but for the mapping of z, in the official order."""
    time = unet.time_embedding.module
    blocks = [time.linear_1, time.linear_2, unet.conv_in]
    for down in unet.down_blocks:
        level = getattr(down, "level", down)
        blocks += chain.from_iterable(zip(level.resnets, level.attentions, strict=True))
        if level is not down:
            blocks += [down.downsample, down.skip_conv]
    blocks += [unet.mid_block.before, unet.mid_block.attention, unet.mid_block.after]
    for up in unet.up_blocks:
        blocks += [*up.resnets, up.attention, *([up.upsample] if up.upsample else [])]
    blocks += [unet.conv_norm_out, unet.conv_out]
    blocks = [block for block in blocks if not isinstance(block, nn.Identity)]
    return ((f"all_modules.{i}", block) for i, block in enumerate(blocks))


def official_parameters(unet: Any) -> dict[str, Tensor]:
    """Its parameters by their official names and in the official layout: views, which can be written to."""
    result: dict[str, Tensor] = {}
    parameter: Tensor
    for block_name, block in official_modules(unet):
        parts = PARTS.get(type(block), {})
        for name, parameter in block.named_parameters():
            part, _, leaf = name.rpartition(".")
            part = parts.get(part, "")
            if part.startswith("NIN"):
                leaf, parameter = ("W", parameter.T) if leaf == "weight" else ("b", parameter)
            result[".".join(filter(None, (block_name, part, leaf)))] = parameter
    mapping = unet.class_embedding.module.named_parameters()
    return result | {f"z_transform.{name}": parameter for name, parameter in mapping}
