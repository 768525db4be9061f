"""Guidance: what a walk makes of several predictions in the same place."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.prediction import Prediction
from toolkit.diffusion.start import Sampled


class Ask(Protocol):
    """Calls a network where the walk stands, with the walk's latent; every call is counted."""

    def __call__(self, label: Tensor | None, network: Denoiser | None = None) -> Prediction:
        """The prediction for those labels (n,), or for k n of them, k times over, in one batch (k n, ...).

        `network` is another one than the walk's own, on the same path.
        """


class Guidance(ABC):
    """Changes what samplers are told by a denoiser; they know nothing of it."""

    @abstractmethod
    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        """The prediction at the number t for classes `label` (n,), from as many questions as it takes."""

    def pipelines(self) -> Mapping[str, Sampled]:
        """The pipelines whose networks it asks, by the option that states their folders: they are saved along."""
        return {}

    def to(self, device: torch.device) -> None:
        """Move networks of its own to `device`."""
        return None

    def refuse(self, denoiser: Denoiser) -> None:
        """Raise a ValueError, when a pipeline is built, if this denoiser cannot be guided so."""
        return None


class ClassifierFree(Guidance):
    """Classifier-free guidance: D(null) + scale (D(label) - D(null)) (Ho & Salimans 2022).

    Needs a network that was trained with `label_dropout`. Two network calls a step, in one batch.

    Args:
        scale: 1 is the plain conditional model.
        interval: guide at times in [low, high] only, elsewhere one plain call (Kynkaanniemi et al. 2024).
    """

    def __init__(
        self,
        num_classes: int | None,
        scale: Annotated[float, Field(ge=0)],
        interval: tuple[float, float] | None = None,
    ) -> None:
        if num_classes is None:
            raise ValueError("classifier-free guidance is of conditional models, and this data has no labels")
        self.null, self.scale, self.interval = num_classes, scale, interval

    def refuse(self, denoiser: Denoiser) -> None:
        if not denoiser.null_class:
            raise ValueError(
                "classifier-free guidance needs a network that knows a null class (null_class = true), trained "
                "with label_dropout above 0"
            )

    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        outside = self.interval is not None and not self.interval[0] <= t <= self.interval[1]
        if label is None or outside or self.scale == 1:
            return ask(label)
        both = ask(torch.cat([label, torch.full_like(label, self.null)]))
        conditional, unconditional = both.split(len(label))
        return conditional.extrapolated(unconditional, self.scale)
