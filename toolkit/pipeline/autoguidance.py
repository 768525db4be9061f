"""Autoguidance: away from the estimate of a weaker model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.guidance import Ask, Guidance
from toolkit.diffusion.prediction import Prediction
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.errors import CheckpointError

if TYPE_CHECKING:
    from toolkit.pipeline.pipeline import Pipeline


@final
class Autoguidance(Guidance):
    """Guidance by a weaker version of the model: D_weak + scale (D - D_weak) (Karras et al. 2024).

    Two network calls where there was one, one of each model. It needs no classes.

    Args:
        weak: a run or pipeline folder of a smaller model, or of one that was trained for fewer steps, on the
            same noise schedule.
        scale: 1 is the model itself.
        interval: guide at times in [low, high] only, elsewhere one plain call.

    Raises:
        ValueError: if there is no such model, or its noise schedule, sample shape or classes differ.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        num_classes: int | None,
        weak: Path,
        scale: Annotated[float, Field(ge=0)],
        interval: tuple[float, float] | None = None,
    ) -> None:
        from toolkit.pipeline.pipeline import Pipeline  # when a recipe asks for it: commands start without

        try:
            self._weak = Pipeline.from_pretrained(weak)
        except CheckpointError as error:
            raise ValueError(f"weak: {error}") from error
        self.scale, self.interval = scale, interval
        if not _same_path(self._weak.schedule, schedule):
            raise ValueError(f"weak: {weak} was trained on another noise schedule")
        shape = self._weak.sample_shape
        if shape != tuple(sample_shape):
            raise ValueError(f"weak: {weak} has samples of shape {shape}, not {tuple(sample_shape)}")
        if self._weak.num_classes not in (None, num_classes):
            raise ValueError(
                f"weak: {weak} has {self._weak.num_classes} classes, not {num_classes or 'none'}"
            )

    def pipelines(self) -> "Mapping[str, Pipeline]":
        return {"weak": self._weak}

    def refuse(self, denoiser: Denoiser) -> None:
        if not denoiser.respaceable or not self._weak.denoiser.respaceable:
            raise ValueError("autoguidance is of estimates of x_0, and this network draws x_0")
        if self._weak.denoiser.conditional and not denoiser.conditional:
            raise ValueError("the weak model wants classes, and this network takes none")

    def to(self, device: torch.device) -> None:
        self._weak.to(device)

    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        strong = ask(label)
        outside = self.interval is not None and not self.interval[0] <= t <= self.interval[1]
        if outside or self.scale == 1:
            return strong
        weak = self._weak.denoiser
        return strong.extrapolated(ask(label if weak.conditional else None, weak), self.scale)


def _same_path(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Whether two paths have the same times, and the same alpha and sigma at each of them."""
    times = one.grid(None, None)
    if one.discrete != other.discrete or times != other.grid(None, None):
        return False
    like = torch.zeros(1, 1)
    return all(list(map(float, one.at(t, like))) == list(map(float, other.at(t, like))) for t in times)
