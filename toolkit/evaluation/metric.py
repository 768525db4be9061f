"""Metrics score a trained model, or a folder of images, against real examples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from toolkit.data.source import DataSource, to_float
from toolkit.errors import RunError
from toolkit.evaluation.comparison import Comparison
from toolkit.evaluation.features import Features
from toolkit.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class Score:
    """What a metric found.

    Attributes:
        values: named numbers, the one that people quote first. `<name>_std` is the deviation of `<name>`, and
            `standard_error` that of the first one; they are shown behind them, after a +-.
        curves: named lists of numbers, e.g. one a timestep.
        notes: what to know before the numbers are believed.
        better: the values by which models can be ranked, and which of them is better: a deviation, say, is
            not among them.
    """

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    better: Mapping[str, Literal["higher", "lower"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and against which real examples.

    Attributes:
        model: in eval mode, on the device on which everything is computed; None for a folder of images.
        source: the real examples; never mirrored.
        progress: is told how many of how many parts of the metric's work are done.
        comparison: samples and features, made when a metric first asks for them and shared by all.
        used: what of those the metric asked for, "samples" or "features": it is part of the score's protocol.
    """

    model: Pipeline | None
    source: DataSource
    progress: Callable[[int, int], None]
    comparison: Comparison | None = None
    used: set[str] = field(default_factory=set)

    @property
    def pipeline(self) -> Pipeline:
        """The model.

        Raises:
            RunError: if there is none.
        """
        if self.model is None:
            raise RunError("this metric scores a model, and there are only its images here")
        return self.model

    def real(self, num: int, batch_size: int) -> Iterator[Tensor]:
        """The first `num` real examples (n, ...) in batches, in [-1, 1] if they are pictures."""
        for indices in torch.arange(min(num, len(self.source))).split(batch_size):
            examples = self.source.read(indices)[0].to(self.pipeline.device)
            yield to_float(examples)

    def samples(self) -> tuple[Tensor, Tensor]:
        """All generated and all real examples of the protocol, uint8 if they are pictures, else float32."""
        compared = self._compared()
        self.used.add("samples")
        return torch.cat(list(compared.generated())), torch.cat(list(compared.real()))

    def features(self) -> tuple[Features, Features]:
        """Features of the generated and of the real images of the protocol, on the CPU.

        Raises:
            RunError: if the protocol names no feature extractor.
        """
        compared = self._compared()
        self.used.add("features")
        return compared.features()

    @property
    def extractor(self) -> str:
        """The name of the protocol's feature extractor, for the names of scores."""
        extractor = self._compared().extractor
        return extractor.name if extractor else ""

    def _compared(self) -> Comparison:
        if self.comparison is None:
            raise RunError("this metric compares samples, and none are asked for here")
        return self.comparison


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
