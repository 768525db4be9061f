"""The smallest settings for `toolkit plugin test flow`, and what is asked of every coupling."""

import torch

from toolkit import Objective, testing
from toolkit_flow.coupling import Coupling

RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "rectified_flow"
[objective]
type = "coupled"
coupling = {type = "optimal_transport"}
label_dropout = 0.2
[objective.loss]
type = "squared_error"
target = "flow"
[networks.denoiser]
type = "unet"
prediction = "flow"
conditional = true
null_class = true
block_out_channels = [8]
down_block_types = ["DownBlock2D"]
up_block_types = ["UpBlock2D"]
layers_per_block = 1
norm_num_groups = 4
add_attention = false
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[sampler]
type = "euler"
"""


def cases() -> list[testing.Case]:
    return [testing.Case(Objective, "coupled", recipe=RECIPE)]


def check_noises(case: testing.Case) -> None:
    """Noises have the shape of the images, are finite, and repeat with the seed."""
    coupling: Coupling = case.build()
    x0, drawn = torch.linspace(-1, 1, 5 * 64).view(5, *case.sample_shape), []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append(coupling.noise(x0.clone()))
    testing.require(
        drawn[0].shape == x0.shape, f"noises {tuple(drawn[0].shape)} for images {tuple(x0.shape)}"
    )
    testing.require(drawn[0].isfinite().all(), "its noises are not finite")
    testing.require(torch.equal(*drawn), "other noises with the same seed: draw by torch's own functions")


CHECKS = {Coupling: (check_noises,)}
