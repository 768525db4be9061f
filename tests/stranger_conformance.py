"""The stranger's module `toolkit_stranger.conformance`: a small recipe, and the cases for the kit."""

import torch

from toolkit import Network, NoiseSchedule, Objective, Sampler, testing

RECIPE = """
[data]
type = "stranger_shapes"
[schedule]
type = "stranger_sigmoid"
num_train_timesteps = 20
[objective]
type = "stranger_weighed"
loss = {type = "stranger_huber", c = 0.05}
[networks.denoiser]
type = "unet"
prediction = "v_prediction"
block_out_channels = [8, 8]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
dropout = 0.1
add_attention = false
[networks.uncertainty]
type = "stranger_uncertainty"
[optimizers.denoiser]
type = "adamw"
lr = 1e-3
[optimizers.uncertainty]
type = "adam"
lr = 1e-2
[ema.denoiser]
decay = 0.9
[sampler]
type = "stranger_two_step"
num_inference_steps = 5
[samples]
num = 4
"""


def cases() -> list[testing.Case]:
    return [
        testing.Case(NoiseSchedule, "stranger_sigmoid", {"num_train_timesteps": 100}),
        testing.Case(Sampler, "stranger_two_step", steps=40),
        testing.Case(Network, "stranger_uncertainty", inputs=lambda n: (torch.arange(n),)),
        testing.Case(Objective, "stranger_weighed", recipe=RECIPE),
    ]
