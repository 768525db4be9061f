"""The published generator as a UNet2DModel: its `forward` is diffusers', the blocks are ours."""

from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ddgan.blocks import Common, DownBlock, LastDownBlock, MidBlock, UpBlock
from toolkit_ddgan.embedding import latent_mapping
from toolkit_ddgan.weights import NEARLY_ZERO, initialise, scale


class Padded(nn.Module):
    """A module whose output (B, width) gets zeros before and after it."""

    def __init__(self, module: nn.Module, before: int = 0, after: int = 0) -> None:
        super().__init__()
        self.module, self.before, self.after = module, before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.module(x), (self.before, self.after))


class StyledUNet(UNet2DModel):
    """A U-Net for x_t (B, C, H, W), t (B,) and, as "class labels", z (B, latent_width).

    UNet2DModel adds the embeddings of time and class. Here one is [time | 0] and the other [0 | style], so
    that the sum holds both and the blocks can tell them apart.

    Args:
        sample_shape: (C, H, W).
        block_out_channels: channels of each level; each has half the sides of the one before.
        layers_per_block: residual blocks of a level, besides the one that resamples.
        attention_sides: which levels have attention, by the height of their images.
        latent_width: length of z.
        mapping_width: width of the style.
        mapping_layers: layers between z and the style, after the first.
        dropout: in every residual block.

    Raises:
        ValueError: if no level has one of the attention_sides.
    """

    time_embedding: nn.Module

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        block_out_channels: tuple[int, ...],
        layers_per_block: int,
        attention_sides: tuple[int, ...],
        latent_width: int,
        mapping_width: int,
        mapping_layers: int,
        dropout: float,
    ) -> None:
        channels, height, width = sample_shape
        sides = [height >> level for level in range(len(block_out_channels))]
        if not set(attention_sides) <= set(sides):
            raise ValueError(
                f"attention_sides {list(attention_sides)} must be among those of the levels, {sides}"
            )
        first = block_out_channels[0]
        super().__init__(  # with one small level of stock blocks, which are replaced below
            sample_size=(height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(first,),
            down_block_types=("DownBlock2D",),
            mid_block_type=None,
            up_block_types=("UpBlock2D",),
            norm_num_groups=min(first // 4, 32),
            norm_eps=1e-6,
            freq_shift=1,
            flip_sin_to_cos=False,
            class_embed_type="identity",
        )
        initialise(self)
        scale(self.conv_out, NEARLY_ZERO)
        mapping = latent_mapping(latent_width, mapping_width, mapping_layers)
        initialise(mapping, fan="out")
        self.time_embedding = Padded(self.time_embedding, after=mapping_width)
        self.class_embedding = Padded(mapping, before=4 * first)

        common = Common(time_width=4 * first, style_width=mapping_width, dropout=dropout)
        attend = [side in attention_sides for side in sides]
        last = len(block_out_channels) - 1
        left = [first]  # channels of the states that the way down leaves for the way up
        h, pyramid = first, channels
        self.down_blocks = nn.ModuleList()
        for level, out in enumerate(block_out_channels):
            self.down_blocks.append(
                DownBlock(h, out, pyramid, layers_per_block, attend[level], common)
                if level < last
                else LastDownBlock(h, out, layers_per_block, attend[level], common)
            )
            left += [out] * (layers_per_block + (level < last))
            h = pyramid = out
        self.mid_block = MidBlock(h, common)
        self.up_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(block_out_channels))):
            states = [left.pop() for _ in range(layers_per_block + 1)]
            self.up_blocks.append(UpBlock(h, out, states, attend[level], level > 0, common))
            h = out
