"""The smallest settings for `toolkit plugin test iwdiff`."""

from toolkit import Objective, testing

RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "linear"
num_train_timesteps = 4
beta_start = 0.1
beta_end = 0.9
[objective]
type = "iwdiff"
k = 3
scale = "sum"
selective = {selective}
[networks.denoiser]
type = "unet"
block_out_channels = [8]
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
add_attention = false
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[ema.denoiser]
decay = 0.9
"""


def cases() -> list[testing.Case]:
    return [
        testing.Case(Objective, "iwdiff", recipe=RECIPE.format(selective=selective))
        for selective in ("false", "true")
    ]
