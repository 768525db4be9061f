"""A denoiser estimates the clean image; how it is parametrised is its private business."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit.diffusion.prediction import Prediction

Network = nn.Module  # what a recipe builds for a role; Denoiser is one


class Denoiser(nn.Module, ABC):
    """Estimates x_0 from x_t; may draw it instead, with a latent of its own (a GAN's z).

    Attributes:
        respaceable: False for one that draws x_0: it learns the steps of one chain, and cannot be sampled with
            others.
        conditional: whether `label` changes the prediction, as it was built; others cannot be asked for a
            class.
        null_class: whether it knows the class `num_classes`, "no class", to which `label_dropout` sends labels
            in training.
    """

    respaceable: bool = True
    conditional: bool = False
    null_class: bool = False

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        """What n network calls draw besides x_t, (n, ...) float32 on the network's device.

        Row i is drawn from `generators[i]`. None for a denoiser without.
        """
        return None

    @abstractmethod
    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        """Predict from x_t; what the prediction holds is finite float32 of the shape of x_t.

        Args:
            x_t: (B, ...) float32.
            t: (B,) times of its path: int64 in 0..T-1 on a chain, else float32.
            s: (B,), the time to which the step leads; most denoisers ignore it, a flow map depends on it.
            label: (B,) int64 in 0..num_classes-1, or num_classes for "no class".
            latent: (B, ...), instead of a drawn one.
        """


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(network.parameters()).device
