"""Metrics score a trained model, or a folder of images, against real examples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from toolkit.data.source import DataSource, to_float
from toolkit.errors import RunError
from toolkit.evaluation.comparison import Comparison
from toolkit.evaluation.features import Features
from toolkit.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class Score:
    """A metric's result.

    Attributes:
        values: named numbers, the one to quote first. `<name>_std` is the deviation of `<name>`, and
            `standard_error` that of the first value; both are shown after a +- behind the value.
        curves: named lists of numbers, e.g. one number per timestep.
        notes: caveats about the numbers.
        better: for each value by which models can be ranked, whether higher or lower is better; others (a
            deviation, say) are left out.
        picture: explains the numbers, and is kept as a PNG beside them.
    """

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    better: Mapping[str, Literal["higher", "lower"]] = field(default_factory=dict)
    picture: Image.Image | None = None


@dataclass(frozen=True)
class Subject:
    """The model or images under evaluation, and the real examples.

    Attributes:
        model: in eval mode, on the device of the computation; None for a folder of images.
        source: the real examples; never mirrored.
        progress: called with how many parts of the metric's work are done, and of how many.
        comparison: samples and features, made when a metric first asks for them and shared by all metrics.
        split: of the data that the real examples are from.
        used: which of "samples" and "features" the metric asked for; part of the score's protocol.
    """

    model: Pipeline | None
    source: DataSource
    progress: Callable[[int, int], None]
    comparison: Comparison | None = None
    split: Literal["held_out", "train"] = "train"
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
        """The first `num` real examples in batches (n, ...) on the model's device, pictures in [-1, 1].

        Raises:
            RunError: if there is no model.
        """
        for indices in torch.arange(min(num, len(self.source))).split(batch_size):
            examples = self.source.read(indices)[0].to(self.pipeline.device)
            yield to_float(examples)

    def samples(self) -> tuple[Tensor, Tensor]:
        """All generated and all real examples of the protocol, (n, ...) each: pictures uint8, else float32.

        Raises:
            RunError: if the protocol compares no samples.
        """
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
        """The name of the protocol's feature extractor, for the names of scores; "" if there is none."""
        extractor = self._compared().extractor
        return extractor.name if extractor else ""

    def _compared(self) -> Comparison:
        if self.comparison is None:
            raise RunError("this metric compares samples, and none are asked for here")
        return self.comparison


class Metric(ABC):
    """One or a few numbers that say how good a trained model is.

    Its options are part of the protocol: only scores with the same options can be compared.
    """

    @abstractmethod
    def measure(self, subject: Subject) -> Score:
        """Score the subject. All randomness is seeded: the same subject gets the same score.

        Raises:
            ToolkitError: if the metric cannot score this subject.
        """
