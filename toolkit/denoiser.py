"""A denoiser estimates the clean image; how it is parametrised is its private business."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from toolkit.schedule import NoiseSchedule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

Network = nn.Module  # what a recipe builds for a role; Denoiser is one


class Prediction:
    """What a denoiser says about x_t (B, ...): its clean image, or equally its noise or its velocity.

    Exactly one of `x0`, `noise` and `velocity` is given, the one that the network computes. The others are
    derived when asked for:

        x_t = s x0 + r noise,   velocity = s noise - r x0,   s = sqrt(abar_t), r = sqrt(1 - abar_t)

    `variance_fraction` (B, ...) in [0, 1], or None, is a learned variance: whoever samples or computes a loss
    interpolates log variances with *its own*, possibly respaced, schedule.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        x_t: Tensor,
        t: Tensor,
        *,
        x0: Tensor | None = None,
        noise: Tensor | None = None,
        velocity: Tensor | None = None,
        variance_fraction: Tensor | None = None,
    ) -> None:
        if sum(given is not None for given in (x0, noise, velocity)) != 1:
            raise ValueError("a prediction is of exactly one of x0, noise and velocity")
        self._schedule, self._x_t, self._t = schedule, x_t, t
        self._x0, self._noise, self._velocity = x0, noise, velocity
        self.variance_fraction = variance_fraction

    @classmethod
    def from_output(
        cls,
        schedule: NoiseSchedule,
        x_t: Tensor,
        t: Tensor,
        out: Tensor,
        prediction: str,
        learned_variance: bool = False,
    ) -> Self:
        """What a network's output means, by diffusers' name for it: "epsilon", "sample" or "v_prediction".

        `out` is (B, ...), or with a learned variance twice as wide at dimension 1: the second half is v, and
        (v + 1) / 2 the fraction (Nichol & Dhariwal 2021).
        """
        out, fraction = out.float(), None
        if learned_variance:
            out, v = out.chunk(2, dim=1)
            fraction = (v + 1) / 2
        name = {"epsilon": "noise", "sample": "x0", "v_prediction": "velocity"}[prediction]
        return cls(schedule, x_t, t, variance_fraction=fraction, **{name: out})

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        return self._schedule.signal(self._t, self._x_t), self._schedule.sigma(self._t, self._x_t)

    @property
    def x0(self) -> Tensor:
        """The estimated clean image (B, ...); not clipped."""
        if self._x0 is None:
            s, r = self._coefficients()
            if self._velocity is not None:  # before the noise, which may be derived and divides by s
                self._x0 = s * self._x_t - r * self._velocity
            else:
                assert self._noise is not None
                self._x0 = (self._x_t - r * self._noise) / s
        return self._x0

    @property
    def noise(self) -> Tensor:
        """The estimated noise, epsilon (B, ...)."""
        if self._noise is None:
            s, r = self._coefficients()
            if self._velocity is not None:
                self._noise = r * self._x_t + s * self._velocity
            else:
                self._noise = (self._x_t - s * self.x0) / r
        return self._noise

    @property
    def velocity(self) -> Tensor:
        """sqrt(abar_t) noise - sqrt(1 - abar_t) x0 (Salimans & Ho 2022)."""
        if self._velocity is None:
            s, r = self._coefficients()
            self._velocity = s * self.noise - r * self.x0
        return self._velocity


class Denoiser(nn.Module, ABC):
    """Estimates x_0 from x_t; may draw it instead, with a latent of its own (a GAN's z).

    A denoiser that draws x_0 learns the steps of one chain, and cannot be sampled with others: it sets
    `respaceable` to False.
    """

    respaceable: bool = True
    conditional: bool = False  # whether `label` changes the prediction; others cannot be asked for a class

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        """What n network calls draw besides x_t, row i from `generators[i]`; None for a denoiser without."""
        return None

    @abstractmethod
    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, latent: Tensor | None = None
    ) -> Prediction:
        """Predict from x_t (B, ...), t (B,) int64 in 0..T-1, label (B,) int64 and latent (B, ...)."""

    def unet(self) -> "UNet2DModel | None":
        """The UNet2DModel that alone does what this denoiser does, if plain diffusers can sample from it.

        A saved pipeline then keeps the weights in diffusers' own format. None for every other denoiser: a
        model that plain diffusers would sample wrongly must not look as if it could.
        """
        return None

    def prediction_type(self) -> str:
        """diffusers' name for what `unet()` predicts: "epsilon", "sample" or "v_prediction"."""
        return "epsilon"


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(network.parameters()).device
