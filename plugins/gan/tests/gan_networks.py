"""Networks small enough for tests, and turns taken by hand."""

from contextlib import nullcontext

import torch
from torch import nn

from toolkit import Batch, Denoiser, Prediction, Step
from toolkit.diffusion.chain import listed_betas
from toolkit_gan.interfaces import Discriminator
from toolkit_gan.sngan import SNGANDiscriminator, SNGANGenerator

ONE_STEP = listed_betas([1.0])


def small_networks(**discriminator):
    torch.manual_seed(0)
    return {
        "generator": SNGANGenerator(ONE_STEP, (1, 8, 8), latent_width=4, width=4),
        "discriminator": SNGANDiscriminator((1, 8, 8), width=4, **discriminator),
    }


class Fixed(Denoiser):
    """Says x_0 = 2 x_t, and draws nothing; it keeps the classes that it was asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x_t, t, *, s=None, label=None, latent=None):
        self.asked.append(label)
        return Prediction(ONE_STEP, x_t, t, x0=2 * x_t)


class Linear(Discriminator):
    """D(x) = <w, x>, whose slope is w everywhere; it keeps what it has seen, and of which classes."""

    def __init__(self, *w):
        super().__init__()
        self.w, self.seen, self.asked = nn.Parameter(torch.tensor(w)), [], []

    def forward(self, x, label=None):
        self.seen.append(x.detach())
        self.asked.append(label)
        return (x * self.w).sum(1)


def step_of(networks, number=0, repetition=0, float32=nullcontext, total=None):
    return Step(number, repetition, torch.device("cpu"), networks, networks, float32, total=total)


def take(objective, name, networks, number=0, repetition=0, images=None):
    """The loss of a turn, everything else frozen, after its backward pass."""
    turn = next(turn for turn in objective.turns() if turn.name == name)
    for role, network in networks.items():
        network.zero_grad()
        network.requires_grad_(role in turn.trains)
    if images is None:
        images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.manual_seed(0)
    loss = turn.loss(Batch(images, None, 0), step_of(networks, number, repetition))
    loss.total.backward()
    return loss


def has_gradient(network):
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters()]
