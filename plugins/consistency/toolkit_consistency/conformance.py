"""The smallest settings for `toolkit plugin test consistency`."""

from collections.abc import Mapping

from toolkit import Denoiser, Objective, testing

EDM = {"type": "edm"}
UNET = {
    "type": "unet", "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "dropout": 0.2,
    "up_block_types": ["UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4, "add_attention": False,
    "time_scale": 1.0,
}  # fmt: skip
DOUBLING = {"type": "doubling", "start": 2, "end": 8, "steps": 3}
TRAINING = {"type": "consistency_training", "discretization": DOUBLING}
DISTILLATION = {"type": "consistency_distillation", "discretization": 6}
TEACHER = {**UNET, "prediction": "flow"}


def cases() -> list[testing.Case]:
    by_class = UNET | {"conditional": True}
    return [
        testing.Case(Denoiser, "consistency_preconditioned", {"network": UNET}, schedule=EDM),
        testing.Case(
            Denoiser, "consistency_preconditioned", {"network": by_class}, schedule=EDM, num_classes=3
        ),
        testing.Case(Objective, "consistency_training", recipe=_recipe(TRAINING)),
        testing.Case(Objective, "consistency_distillation", recipe=_recipe(DISTILLATION, teacher=TEACHER)),
    ]


def _recipe(objective: Mapping[str, object], **more: object) -> dict[str, object]:
    """A run on digits, with further networks besides the denoiser."""
    denoiser = {"type": "consistency_preconditioned", "network": UNET}
    return {
        "data": {"type": "digits", "split": "test"},
        "schedule": EDM,
        "objective": objective,
        "networks": {"denoiser": denoiser, **more},
        "optimizers": {"denoiser": {"type": "adam", "lr": 1e-3}},
        "ema": {"denoiser": {"decay": 0.9}},
        "sampler": {"type": "consistency", "num_inference_steps": 2},
    }
