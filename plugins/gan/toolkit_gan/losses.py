"""Adversarial losses and penalties on the discriminator's slope."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Adversarial = Literal["non_saturating", "hinge", "wasserstein", "relativistic"]
Slopes = Literal["exact", "finite_differences"]
Judge = Callable[[Tensor], Tensor]
SPAN = 0.01  # of finite differences, as Lin et al. (2025) take


def discriminator_loss(kind: Adversarial, real: Tensor, fake: Tensor) -> Tensor:
    """E f(D(x)) + E f(-D(G(z))), from logits of both; f is what a logit costs that should be high.

    f(d) is softplus(-d) for non_saturating (Goodfellow et al. 2014), relu(1 - d) for hinge (Miyato et al.
    2018) and -d for wasserstein (Arjovsky et al. 2017). relativistic compares pairs instead.
    """
    if kind == "relativistic":
        return relativistic_loss(fake, real)
    cost = {
        "non_saturating": lambda d: softplus(-d),
        "hinge": lambda d: relu(1 - d),
        "wasserstein": torch.neg,
    }
    loss: Tensor = cost[kind](real).mean() + cost[kind](-fake).mean()
    return loss


def generator_loss(kind: Adversarial, fake: Tensor) -> Tensor:
    """E softplus(-D(G(z))) for non_saturating, -E D(G(z)) for hinge and wasserstein."""
    return (softplus(-fake) if kind == "non_saturating" else -fake).mean()


def relativistic_loss(low: Tensor, high: Tensor) -> Tensor:
    """E softplus(low - high) of pairs of logits (Jolicoeur-Martineau 2019; Huang et al. 2024).

    The discriminator wants D(x) high and D(G(z)) low, the generator the other way round.
    """
    return softplus(low - high).mean()


def slope_at(x: Tensor, judge: Judge) -> Tensor:
    """The gradient of each row's logit with respect to it (B, D), differentiable in the judge's weights.

    Batch normalisation mixes rows, and with them their gradients: penalties want a judge without.
    """
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(judge(x).sum(), x, create_graph=True)
    return slope.flatten(1)


def squared_slope(judge: Judge, x: Tensor) -> Tensor:
    """E |grad D(x)|^2: R1 at real images, R2 at generated ones (Mescheder et al. 2018)."""
    return slope_at(x, judge).square().sum(1).mean()


def squared_difference(judge: Judge, x: Tensor) -> Tensor:
    """E (D(x + h n) - D(x))^2 / h^2 with n ~ N(0, I) and h = 0.01 (Lin et al. 2025).

    Its mean over n is E |grad D(x)|^2 + O(h^2), and nothing is differentiated twice. Both logits come from
    one forward pass, as spectral normalisation changes the weights between two.

    Args:
        judge: gives the logits (2 B,) of twice as many rows.
        x: images (B, ...).
    """
    moved, still = judge(torch.cat([x + SPAN * torch.randn_like(x), x])).float().chunk(2)
    return ((moved - still) / SPAN).square().mean()


def gradient_penalty(judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
    """E (|grad D(x)| - 1)^2 at points drawn between a real and a generated image (Gulrajani et al. 2017)."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    # vector_norm has a gradient at 0, where a square root has none.
    norm = torch.linalg.vector_norm(slope_at(torch.lerp(fake, real, share), judge), dim=1)
    penalty: Tensor = (norm - 1).square().mean()
    return penalty
