"""DCGAN (Radford et al. 2016), whose depth follows from the size of the image.

For 64x64 images layers and widths are those of PyTorch's example, which report 003 prints; for each halving
of the image the widest stage is left out.
"""

from itertools import pairwise
from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from toolkit import NoiseSchedule
from toolkit_gan.interfaces import Discriminator, Generator, check_shape, doublings

Count = Annotated[int, Field(ge=1)]


@final
class DCGANGenerator(Generator):
    """Transposed convolutions from z to the image, with batch normalisation; no biases.

    3,576,704 parameters for 3x64x64 images and 1,068,928 for 3x32x32.

    Args:
        latent_width: length of z.
        width: channels before the last layer; each layer towards z has twice as many.

    Raises:
        ValueError: if the image is not square, with a side of 8, 16, 32, 64, ...
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        latent_width: Count = 100,
        width: Count = 64,
    ) -> None:
        super().__init__()
        self.schedule, self.latent_width = schedule, latent_width
        widths = stage_widths(sample_shape, width)[::-1]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_width, widths[0], 4, bias=False)]
        for before, after in pairwise(widths):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), doubled(before, after)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(), doubled(width, sample_shape[0])]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def images(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        out: Tensor = self.layers(z[:, :, None, None])
        return out.tanh()


@final
class DCGANDiscriminator(Discriminator):
    """Strided convolutions from the image to a logit, batch normalisation but in the first; no biases.

    2,765,568 parameters for 3x64x64 images and 663,296 for 3x32x32.

    Args:
        width: channels after the first layer; each layer towards the logit has twice as many.

    Raises:
        ValueError: if the image is not square, with a side of 8, 16, 32, 64, ...; or if, later, an image has
            another size.
    """

    def __init__(self, sample_shape: tuple[int, ...], width: Count = 64) -> None:
        super().__init__()
        self.sample_shape = sample_shape
        widths = stage_widths(sample_shape, width)
        layers: list[nn.Module] = [halved(sample_shape[0], width), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [halved(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, bias=False))
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        check_shape(x, self.sample_shape)  # a larger image would pass, with a map of logits
        logits: Tensor = self.layers(x)
        return logits.flatten()


def stage_widths(sample_shape: tuple[int, ...], width: int) -> list[int]:
    """Channels of the maps between the image and 4x4 pixels, that next to the image first.

    Raises:
        ValueError: if halving the image does not lead to 4x4.
    """
    base, n = doublings(sample_shape)
    if base != 4:
        side = sample_shape[1]
        raise ValueError(
            f"DCGAN halves the image down to 4x4 pixels, so its side must be 8, 16, 32, 64, ..., not {side}: "
            "set data.size"
        )
    return [width * 2**i for i in range(n)]


def doubled(before: int, after: int) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)


def halved(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)


def initialise(network: nn.Module) -> None:
    """Convolutions from N(0, 0.02^2), the scales of batch normalisation from N(1, 0.02^2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
