"""What a saved pipeline says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
