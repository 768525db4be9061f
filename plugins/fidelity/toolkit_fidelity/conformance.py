"""The smallest settings for `toolkit plugin test fidelity`."""

from toolkit import Metric, testing

SHORT = {"type": "linear", "num_train_timesteps": 4, "beta_start": 0.1, "beta_end": 0.9}


def cases() -> list[testing.Case]:
    options = {
        "kid": {"subsets": 3, "subset_size": 20}, "is": {"splits": 2}, "fid": {"bootstrap": 3},
        "fid_infinity": {"points": 3},
    }  # fmt: skip
    return [
        testing.Case(Metric, name, options.get(name, {}), schedule=SHORT)
        for name in (
            "coverage",
            "density",
            "fid",
            "fid_infinity",
            "is",
            "kid",
            "memorisation",
            "precision",
            "recall",
        )
    ]
