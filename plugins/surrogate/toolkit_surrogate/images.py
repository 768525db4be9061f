"""Where clean images come from: a trained model, or a data set."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from toolkit import DataSource, Pipeline, to_float
from toolkit_surrogate.handover import Handover

Generators = Sequence[torch.Generator] | None


class Images(ABC):
    """Images (n, *shape) in [-1, 1], row i from `generators[i]` alone."""

    shape: tuple[int, ...]
    calls: int  # of a network, for one image

    @abstractmethod
    def draw(self, n: int, generators: Generators, device: torch.device) -> Tensor: ...


@final
class Samples(Images):
    """Samples of a pipeline, as it was saved; a model with classes draws one for each image.

    With `last` above 0 its network is called only at timesteps from `last` up, and the image is what it
    estimates at the lowest of these.

    Raises:
        ValueError: if there is no such timestep.
    """

    def __init__(self, pipeline: Pipeline, last: int = 0) -> None:
        called = sum(t >= last for t in pipeline.times if t != pipeline.schedule.clean)
        self.shape = pipeline.image_shape
        self.calls = pipeline.start.calls + called
        self._classes, self._pipeline = pipeline.num_classes, pipeline
        self._handover: Handover | None = None
        if last > 0:
            if not called:
                raise ValueError(f"the surrogate has no step at or above {last}, so nothing to hand over")
            self._pipeline = copy.copy(pipeline)
            self._handover = Handover(pipeline.denoiser, pipeline.schedule, last)
            self._pipeline.denoiser = self._handover

    def draw(self, n: int, generators: Generators, device: torch.device) -> Tensor:
        label = None if self._classes is None else picks(self._classes, n, generators).to(device)
        images = self._pipeline.to(device).draw(generators, n, label=label)
        # Samplers that look back at earlier estimates end near the last one, and not quite at it.
        return images if self._handover is None else self._handover.x0.clamp(-1, 1)


@final
class Examples(Images):
    """Examples of a data set, drawn with replacement."""

    calls = 0

    def __init__(self, source: DataSource) -> None:
        self.shape, self._source = tuple(source.image_shape), source

    def draw(self, n: int, generators: Generators, device: torch.device) -> Tensor:
        images, _ = self._source.read(picks(len(self._source), n, generators))
        images = images.to(device)
        return to_float(images)


def picks(count: int, n: int, generators: Generators) -> Tensor:
    """n numbers of 0..count-1 (n,) on the CPU, one of each generator."""
    if generators is None:
        return torch.randint(count, (n,))
    drawn = [torch.randint(count, (), generator=g, device=g.device) for g in generators]
    return torch.tensor([int(number) for number in drawn])


def fit(images: Tensor, shape: Sequence[int]) -> Tensor:
    """Images (n, C, H, W) at another size, bilinearly; shrinking averages over what it covers."""
    if images.shape[1:] == torch.Size(shape):
        return images
    return functional.interpolate(images, tuple(shape[1:]), mode="bilinear", antialias=True)


def refuse_misfit(made: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise a ValueError if `fit` cannot bring images of one shape to the other."""
    if made == wanted:
        return
    if len(made) != 3 or len(wanted) != 3:
        raise ValueError(f"its samples have shape {made}, those of the refining model {wanted}")
    if made[0] != wanted[0]:
        raise ValueError(f"its images have channels: {made[0]}, those of the refining model: {wanted[0]}")
