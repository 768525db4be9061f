"""The smallest settings for `toolkit plugin test edm`."""

from toolkit import Denoiser, Sampler, testing

UNET = {
    "type": "unet", "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4, "dropout": 0.1, "time_scale": 1.0,
}  # fmt: skip
EDM = {"type": "edm"}
CHURN = {"churn": 0.2, "s_min": 0.05, "s_max": 50.0}


def cases() -> list[testing.Case]:
    by_class = UNET | {"conditional": True, "null_class": True}
    return [
        testing.Case(Denoiser, "edm_preconditioned", {"network": UNET}, schedule=EDM),
        testing.Case(Denoiser, "edm_preconditioned", {"network": by_class}, schedule=EDM, num_classes=3),
        testing.Case(Sampler, "edm_heun", CHURN, schedule=EDM, steps=50),
    ]
