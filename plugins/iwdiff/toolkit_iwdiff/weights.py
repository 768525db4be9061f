"""How much each of the k draws of a sample counts.

    w = softmax over the draws of sign * scale * l

`l` is a mean over the d dimensions of a sample, so that scale = d makes the argument a sum. How peaked the
weights are depends on it: for pictures, the mean gives 1/k to three decimals, the sum nearly all weight
to one draw wherever there is little noise. The two are different methods.
"""

from typing import Literal, final

import torch
from torch import Tensor, nn

from toolkit import Chain

Scale = Literal["mean", "sum", "vlb"]


@final
class DrawWeights(nn.Module):
    """Softmax weights of the losses (b, k) of each sample's draws; they sum to 1 over the draws.

    Args:
        schedule: for the coefficients of "vlb".
        dimensions: d, the size of a sample.
        sign: +1 stresses the worst draws, -1 the easiest.
        scale: what a loss is multiplied by: 1 ("mean"), d ("sum"), d c_t ("vlb"), or d times a number; 0
            makes the weights uniform.

    Raises:
        ValueError: if the chain has no finite c_t.
    """

    factor: Tensor

    def __init__(self, schedule: Chain, dimensions: int, sign: int, scale: Scale | float) -> None:
        super().__init__()
        steps = schedule.num_train_timesteps
        if scale == "mean":
            factor = torch.ones(steps, dtype=torch.float64)
        elif scale == "vlb":
            factor = dimensions * bound_coefficients(schedule)
        else:
            number = 1.0 if scale == "sum" else float(scale)
            factor = torch.full((steps,), dimensions * number, dtype=torch.float64)
        self.register_buffer("factor", (sign * factor).float(), persistent=False)

    def forward(self, losses: Tensor, t: Tensor) -> Tensor:
        return torch.softmax(self.factor[t, None] * losses, dim=1)


def bound_coefficients(schedule: Chain) -> Tensor:
    """c_t (T,) float64, the weight of the summed squared error in the bound (Ho et al. 2020, eq. 12).

        c_t = beta_t^2 / (2 sigma_t^2 alpha_t (1 - abar_t)),   sigma_t^2 = beta_t

    At the first kept timestep sigma^2 is the posterior variance of the second, as for `fixed_large`.

    Raises:
        ValueError: if a beta is 1.
    """
    variance, kept = schedule.betas.clone(), schedule.timesteps
    if len(kept) > 1:
        variance[kept[0]] = schedule.posterior_variance[kept[1]]
    alphas = 1 - schedule.betas
    coefficients = schedule.betas**2 / (2 * variance * alphas * (1 - schedule.alphas_cumprod))
    if not bool(coefficients[kept].isfinite().all()):
        raise ValueError('scale = "vlb" needs every beta below 1: the bound\'s last coefficient is infinite')
    return coefficients
