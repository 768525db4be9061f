"""The smallest settings for `toolkit plugin test classifier`."""

import torch

from toolkit import Metric, Objective, testing
from toolkit_classifier.network import Classifier

STATISTICS = "batch normalisation sees one micro-batch at a time (README.md)"
SHORT = {"type": "linear", "num_train_timesteps": 4, "beta_start": 0.1, "beta_end": 0.9}
RECIPE = """
[data]
type = "digits"
split = "test"
[objective]
type = "classifier"
shift = 1
label_smoothing = 0.05
[networks.classifier]
type = "classifier_cnn"
channels = 4
width = 8
dropout = 0.1
[optimizers.classifier]
type = "adamw"
lr = 1e-3
[ema.classifier]
decay = 0.5
"""


def cases() -> list[testing.Case]:
    return [
        testing.Case(
            Classifier,
            "classifier_cnn",
            {"channels": 4, "width": 8, "dropout": 0.1},
            num_classes=3,
            inputs=lambda n: (torch.rand(n, 1, 8, 8) * 2 - 1,),
        ),
        testing.Case(Metric, "modes", schedule=SHORT),
        testing.Case(Objective, "classifier", recipe=RECIPE, declares={"check_micro_batches": STATISTICS}),
    ]
