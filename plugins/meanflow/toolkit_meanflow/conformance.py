"""The smallest settings for `toolkit plugin test meanflow`."""

from toolkit import Denoiser, Objective, testing

FLOW = {"type": "rectified_flow"}
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "rectified_flow"
[objective]
type = "meanflow"
derivative = "{derivative}"
slope_share = 0.25
[networks.denoiser]
type = "flow_map_mlp"
width = 8
layers = 1
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[sampler]
type = "ddim"
num_inference_steps = 1
"""


def cases() -> list[testing.Case]:
    return [
        testing.Case(Denoiser, "flow_map_mlp", {"width": 8, "layers": 1}, sample_shape=(2,), schedule=FLOW),
        testing.Case(Denoiser, "flow_map_mlp", {"width": 8}, schedule={"type": "edm"}),
        testing.Case(Objective, "meanflow", recipe=RECIPE.format(derivative="exact")),
        testing.Case(Objective, "meanflow", recipe=RECIPE.format(derivative="difference")),
    ]
