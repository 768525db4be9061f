"""Couplings: which noise goes with which image."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from toolkit import Positive


class Coupling(ABC):
    """Draws the noises of a micro-batch in view of its images."""

    @abstractmethod
    def noise(self, x0: Tensor) -> Tensor:
        """Noises (B, ...) for images x0 (B, ...) float32, row by row, from torch's default generator."""


@final
class Independent(Coupling):
    """Whatever is drawn: the noise knows nothing of its image."""

    def noise(self, x0: Tensor) -> Tensor:
        return torch.randn_like(x0)


@final
class OptimalTransport(Coupling):
    """Pairs the noises with the images so that the squared distances sum to the least (Tong et al. 2024).

    The noises are those of `independent` in another order, so that over batches each is N(0, I). The pairs
    are the best of a micro-batch, and computed on the CPU: an accelerator waits for them.
    """

    def noise(self, x0: Tensor) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        noise = torch.randn_like(x0)
        # |x - n|^2 = |x|^2 + |n|^2 - 2 x.n, and only the last term depends on the pairs.
        similar = (x0.flatten(1) @ noise.flatten(1).T).cpu()
        if not similar.isfinite().all():
            return noise  # there is no best pair; the loss is not finite either, and the trainer says so
        _, order = linear_sum_assignment(similar.numpy(), maximize=True)
        return noise[torch.as_tensor(order, device=noise.device)]


@final
class Immiscible(Coupling):
    """The nearest to the image of k noises drawn for it alone (Li et al. 2024).

    That noise leans towards its image, so that it is not quite N(0, I), where sampling starts.

    Args:
        k: noises drawn for an image; 1 is `independent`.
    """

    def __init__(self, k: Positive = 4) -> None:
        self.k = k

    def noise(self, x0: Tensor) -> Tensor:
        nearest = torch.randn_like(x0)
        for _ in range(self.k - 1):
            other = torch.randn_like(x0)
            old, new = ((x0 - noise).square().flatten(1).sum(1) for noise in (nearest, other))
            nearest = torch.where((new < old).view(-1, *[1] * (x0.ndim - 1)), other, nearest)
        return nearest
