"""Losses that learn variances: the hybrid, and the variational bound itself.

    L_vlb = sum_t vb_t = E_t T vb_t,   L_hybrid = L_simple + 0.001 L_vlb   (Nichol & Dhariwal 2021, eq. 16)

vb_t are the terms of the bound in bits per dimension, T is the number of kept timesteps.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Chain, DenoisingLoss, Prediction
from toolkit_improved_ddpm.bound import Bound


class Hybrid(DenoisingLoss):
    """Squared error of the noise, plus a little of the bound, which trains the variance alone (eq. 16).

    The denoiser must have a learned variance: RecipeError at the first step if not.

    Args:
        vb_weight: of the bound, the sum of its T terms (lambda in the paper).
    """

    def __init__(self, schedule: Chain, vb_weight: Annotated[float, Field(gt=0)] = 1e-3) -> None:
        super().__init__()
        self.vb_weight, self.bound = vb_weight, Bound(schedule)

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        t = torch.as_tensor(prediction.t)
        # Detached, or the few terms that dominate the bound would decide what the network learns of noise.
        estimate = prediction.x0.detach()
        vb = self.bound.term(x0, estimate, self.bound.learned_excess(prediction, t), t)
        error = (prediction.noise - noise).square().flatten(1).mean(1)
        return error + self.vb_weight * self.bound.steps * vb


class VLB(DenoisingLoss):
    """The variational bound, for the mean and for the variance (Nichol & Dhariwal 2021, eq. 4).

    The denoiser must have a learned variance: RecipeError at the first step if not. The terms differ by
    orders of magnitude, so with uniform timesteps the gradient is very noisy.
    """

    def __init__(self, schedule: Chain) -> None:
        super().__init__()
        self.bound = Bound(schedule)

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        t = torch.as_tensor(prediction.t)
        excess = self.bound.learned_excess(prediction, t)
        return self.bound.steps * self.bound.term(x0, prediction.x0, excess, t)
