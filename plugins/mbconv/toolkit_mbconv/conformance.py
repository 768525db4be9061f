"""The smallest settings for `toolkit plugin test mbconv`."""

from toolkit import Denoiser, testing

TINY = {
    "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "dropout": 0.1,
}  # fmt: skip


def cases() -> list[testing.Case]:
    return [testing.Case(Denoiser, "mbconv_unet", TINY)]
