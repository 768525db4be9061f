"""The smallest settings for `toolkit plugin test importance`."""

from toolkit import TimestepSampler, testing


def cases() -> list[testing.Case]:
    return [testing.Case(TimestepSampler, "second_moment", {"history": 4, "uniform": 0.1, "extra": 1})]
