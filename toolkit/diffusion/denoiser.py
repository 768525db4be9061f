"""A denoiser estimates the clean image; how it is parametrised is its private business."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit.diffusion.prediction import Prediction
from toolkit.errors import ToolkitError

Network = nn.Module  # what a recipe builds for a role; Denoiser is one


class Denoiser(nn.Module, ABC):
    """Estimates x_0 from x_t; may draw it instead, with a latent of its own (a GAN's z).

    Attributes:
        respaceable: False for one that draws x_0: it learns the steps of one chain and can be sampled with
            no others.
        conditional: whether `label` changes the prediction of this instance; only then can a class be asked
            for.
        null_class: whether it knows the extra class `num_classes`, "no class", by which `label_dropout`
            replaces labels in training.
        flow_map: whether `s` changes the prediction of this instance, which is then for the whole way from t
            to s; a method that trains such ways refuses others.
    """

    respaceable: bool = True
    conditional: bool = False
    null_class: bool = False
    flow_map: bool = False

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        """Draw the latents of a batch of n, (n, ...) float32 on the network's device; None if it has none.

        Row i is drawn from `generators[i]`; all rows from torch's own generator if `generators` is None.
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
        """Predict from x_t. The tensors of the prediction are finite float32, each of the shape of x_t.

        Args:
            x_t: (B, ...) float32.
            t: (B,) times on its path: int64 in 0..T-1 on a chain, else float32.
            s: (B,) the times to which the step leads; most denoisers ignore them, a flow map depends on them.
            label: (B,) int64 in 0..num_classes-1, or num_classes for "no class".
            latent: (B, ...) as `latent` draws them; None lets a denoiser that needs one draw it.
        """


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's parameters."""
    return next(network.parameters()).device


def device_named(name: str | torch.device | None, shown: str) -> torch.device:
    """The torch device of that name; None takes an accelerator if there is one, else the CPU.

    Raises:
        ToolkitError: if torch has no such device here: `shown`, and torch's reason.
    """
    try:
        device = torch.device(name or torch.accelerator.current_accelerator() or "cpu")
        torch.Generator(device)  # "meta" has tensors, but draws no numbers
    except (RuntimeError, AssertionError) as error:  # how torch says so
        raise ToolkitError(f"{shown}: {str(error).splitlines()[0]}") from None
    return device
