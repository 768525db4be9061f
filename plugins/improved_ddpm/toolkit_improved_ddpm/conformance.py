"""The smallest settings for `toolkit plugin test improved_ddpm`."""

from toolkit import Metric, NoiseSchedule, testing

SHORT = {"type": "cosine_betas", "num_train_timesteps": 8}


def cases() -> list[testing.Case]:
    return [
        testing.Case(NoiseSchedule, "cosine_betas", {"num_train_timesteps": 100}),
        testing.Case(Metric, "nll", {"images": 4}, schedule=SHORT),
        testing.Case(Metric, "nll", {"images": 4, "num_inference_steps": 4, "batch_size": 3}, schedule=SHORT),
    ]
