"""The smallest settings for `toolkit plugin test points`."""

from toolkit import DataSource, Metric, testing

SHORT = {"type": "linear", "num_train_timesteps": 4, "beta_start": 0.1, "beta_end": 0.9}


def cases() -> list[testing.Case]:
    return [
        testing.Case(DataSource, "gaussians25", {"length": 500}),
        testing.Case(Metric, "modes25", {"std": 0.2}, sample_shape=(2,), schedule=SHORT),
        testing.Case(Metric, "sliced_wasserstein", {"projections": 4}, schedule=SHORT),
    ]
