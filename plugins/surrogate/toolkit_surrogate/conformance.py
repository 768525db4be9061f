"""The smallest settings for `toolkit plugin test surrogate`."""

from toolkit import Start, testing


def cases() -> list[testing.Case]:
    data = {"type": "digits"}
    return [
        testing.Case(Start, "surrogate", {"t_mid": t_mid, "data": data}, sample_shape=(1, 10, 10))
        for t_mid in (0, 100)
    ]
