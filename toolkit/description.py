"""What a saved pipeline says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.schedule import NoiseSchedule


@dataclass(frozen=True)
class Description:
    """What a pipeline is made of, as in its pipeline.json; enough to build it again.

    Attributes:
        tables: complete recipe tables: schedule, network, sampler, initialiser.
        sample_shape: of one sample, e.g. (3, 32, 32).
        num_classes: None if unlabelled.
        about: free facts: role, weights ("ema" or "raw"), steps, recipe.
    """

    tables: Mapping[str, dict[str, Any]]
    sample_shape: tuple[int, ...]
    num_classes: int | None
    about: Mapping[str, Any]

    def supplied(self, schedule: NoiseSchedule | None = None) -> dict[str, Any]:
        """What constructors of its parts may ask for by name."""
        shape = self.sample_shape
        return {
            "schedule": schedule, "num_classes": self.num_classes,
            "sample_shape": shape, "image_shape": shape,
        }  # fmt: skip
