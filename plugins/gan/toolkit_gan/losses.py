"""Adversarial losses and penalties on the discriminator's slope."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

Adversarial = Literal["non_saturating", "hinge", "wasserstein"]
Judge = Callable[[Tensor], Tensor]


def discriminator_loss(kind: Adversarial, real: Tensor, fake: Tensor) -> Tensor:
    """E f(D(x)) + E f(-D(G(z))), from logits of both; f is what a logit costs that should be high.

    f(d) is softplus(-d) for non_saturating (Goodfellow et al. 2014), relu(1 - d) for hinge (Miyato et al.
    2018) and -d for wasserstein (Arjovsky et al. 2017).
    """
    cost = {
        "non_saturating": lambda d: softplus(-d),
        "hinge": lambda d: relu(1 - d),
        "wasserstein": torch.neg,
    }
    loss: Tensor = cost[kind](real).mean() + cost[kind](-fake).mean()
    return loss


def generator_loss(kind: Adversarial, fake: Tensor) -> Tensor:
    """E softplus(-D(G(z))) for non_saturating, else -E D(G(z))."""
    return (softplus(-fake) if kind == "non_saturating" else -fake).mean()


def slope_at(x: Tensor, judge: Judge) -> Tensor:
    """The gradient of each row's logit with respect to it (B, D), differentiable in the judge's weights.

    Batch normalisation mixes rows, and with them their gradients: penalties want a judge without.
    """
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(judge(x).sum(), x, create_graph=True)
    return slope.flatten(1)


def r1(judge: Judge, real: Tensor) -> Tensor:
    """E |grad D(x)|^2 at real images (Mescheder et al. 2018)."""
    return slope_at(real, judge).square().sum(1).mean()


def gradient_penalty(judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
    """E (|grad D(x)| - 1)^2 at points drawn between a real and a generated image (Gulrajani et al. 2017)."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    # vector_norm has a gradient at 0, where a square root has none.
    norm = torch.linalg.vector_norm(slope_at(torch.lerp(fake, real, share), judge), dim=1)
    penalty: Tensor = (norm - 1).square().mean()
    return penalty
