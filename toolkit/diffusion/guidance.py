"""Guidance: one prediction made from several at the same point of a walk."""

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
    """Calls a network at the current point of the walk, with the walk's latent; every call is counted."""

    def __call__(self, label: Tensor | None, network: Denoiser | None = None) -> Prediction:
        """The prediction (n, ...) for labels (n,); k n labels ask about the rows k times over, in one batch.

        `network` replaces the walk's own; it must be on the same path.
        """


class Guidance(ABC):
    """Changes the predictions that a sampler gets from a denoiser, without the sampler knowing."""

    @abstractmethod
    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        """The guided prediction at time t for classes `label` (n,), by any number of `ask` calls."""

    def pipelines(self) -> Mapping[str, Sampled]:
        """The pipelines whose networks it asks, by the option that names their folder; saved with it."""
        return {}

    def to(self, device: torch.device) -> None:
        """Move the networks it owns to `device`."""
        return None

    def refuse(self, denoiser: Denoiser) -> None:
        """Raise a ValueError if it cannot guide this denoiser; called when a pipeline is built."""
        return None


class ClassifierFree(Guidance):
    """Classifier-free guidance: D(null) + scale (D(label) - D(null)) (Ho & Salimans 2022).

    Needs a network that was trained with `label_dropout`. Two network calls a step, in one batch.

    Args:
        scale: 1 is the plain conditional model, 0 the unconditional one.
        interval: guide at times in [low, high] only, else one plain call (Kynkaanniemi et al. 2024).
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
                "classifier-free guidance needs a network that knows a null class (null_class = true), "
                "trained with label_dropout above 0"
            )

    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        outside = self.interval is not None and not self.interval[0] <= t <= self.interval[1]
        if label is None or outside or self.scale == 1:
            return ask(label)
        both = ask(torch.cat([label, torch.full_like(label, self.null)]))
        conditional, unconditional = both.split(len(label))
        return conditional.extrapolated(unconditional, self.scale)
