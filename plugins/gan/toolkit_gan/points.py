"""Networks for points, such as the 25 Gaussians: fully connected."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import final

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalised

from toolkit import NoiseSchedule, Positive
from toolkit_gan.interfaces import Discriminator, Generator, check_shape

SLOPE = 0.2  # of leaky ReLUs


@final
class MLPGenerator(Generator):
    """Fully connected layers on z, with ReLUs; the output is not bounded.

    Args:
        latent_width: length of z.
        width: of each hidden layer.
        layers: number of hidden layers.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        latent_width: Positive = 2,
        width: Positive = 128,
        layers: Positive = 3,
    ) -> None:
        super().__init__()
        self.schedule, self.latent_width, self.shape = schedule, latent_width, sample_shape
        self.net = mlp([latent_width, *[width] * layers, prod(sample_shape)], nn.ReLU())

    def images(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        out: Tensor = self.net(z)
        return out.view(-1, *self.shape)


@final
class MLPDiscriminator(Discriminator):
    """Fully connected layers, with leaky ReLUs.

    Args:
        width: of each hidden layer.
        layers: number of hidden layers.
        spectral_norm: divide every weight matrix by its largest singular value, as SNGAN does.
    """

    def __init__(
        self, sample_shape: tuple[int, ...], width: Positive = 128, layers: Positive = 3,
        spectral_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sample_shape = sample_shape
        self.net = mlp([prod(sample_shape), *[width] * layers, 1], nn.LeakyReLU(SLOPE))
        if spectral_norm:
            for module in self.net:
                if isinstance(module, nn.Linear):
                    normalised(module)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        check_shape(x, self.sample_shape)
        logits: Tensor = self.net(x.flatten(1))
        return logits.squeeze(1)


def mlp(widths: Sequence[int], activation: nn.Module) -> nn.Sequential:
    """Linear layers of these widths with an activation between them."""
    modules: list[nn.Module] = []
    for into, out in pairwise(widths):
        modules += [nn.Linear(into, out), activation]
    return nn.Sequential(*modules[:-1])
