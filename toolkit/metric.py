"""Metrics score a trained pipeline against real examples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolkit.data.source import DataSource
from toolkit.pipeline import Pipeline


@dataclass(frozen=True)
class Score:
    """What a metric found.

    Attributes:
        values: named numbers, the one that people quote first.
        curves: named lists of numbers, e.g. one a timestep.
    """

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and against which real examples.

    Attributes:
        pipeline: in eval mode, on the device on which everything is computed.
        source: the real examples; never mirrored.
        progress: is told how many of how many parts of the work are done.
    """

    pipeline: Pipeline
    source: DataSource
    progress: Callable[[int, int], None]

    def real(self, num: int, batch_size: int) -> Iterator[Tensor]:
        """The first `num` real examples (n, ...) in batches, in [-1, 1] if they are pictures."""
        for indices in torch.arange(min(num, len(self.source))).split(batch_size):
            examples = self.source.read(indices)[0].to(self.pipeline.device)
            pictures = examples.dtype == torch.uint8
            yield examples.to(torch.float32).div_(127.5).sub_(1) if pictures else examples


class Metric(ABC):
    """A number, or a few, that say how good a trained model is.

    Its options are part of what it measures: two scores can be compared if they have the same.
    """

    @abstractmethod
    def measure(self, subject: Subject) -> Score:
        """Score the subject. All randomness is seeded: the same subject has the same score.

        Raises:
            ToolkitError: if the subject is nothing that this metric can score.
        """
