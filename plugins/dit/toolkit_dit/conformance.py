"""The smallest settings for `toolkit plugin test dit`."""

from toolkit import Denoiser, Objective, testing

TINY = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4, "dropout": 0.1}
FLOW = {"type": "rectified_flow"}
BY_CLASS = {"conditional": True, "null_class": True}
RECIPE = """
[data]
type = "digits"
split = "test"
[schedule]
type = "rectified_flow"
[objective]
type = "denoising"
label_dropout = 0.2
[objective.loss]
type = "squared_error"
target = "flow"
[networks.denoiser]
type = "dit"
num_layers = 1
num_attention_heads = 2
attention_head_dim = 4
patch_size = 4
prediction = "flow"
conditional = true
null_class = true
dropout = 0.1
[optimizers.denoiser]
type = "adam"
lr = 1e-3
[sampler]
type = "euler"
"""


def cases() -> list[testing.Case]:
    flow = {**TINY, "prediction": "flow", "flow_map": True}
    return [
        testing.Case(Denoiser, "dit", {**TINY, "learned_variance": True}),
        testing.Case(Denoiser, "dit", {**TINY, **BY_CLASS}, num_classes=3, sample_shape=(4, 4, 8)),
        testing.Case(Denoiser, "dit", flow, schedule=FLOW),
        testing.Case(Denoiser, "dit", {**flow, **BY_CLASS}, num_classes=3, schedule=FLOW),
        testing.Case(Objective, "denoising", recipe=RECIPE),
    ]
