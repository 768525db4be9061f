"""Discriminators of diffused samples."""

from abc import ABC, abstractmethod
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit import NoiseSchedule

Count = Annotated[int, Field(ge=1)]


class DiffusedDiscriminator(nn.Module, ABC):
    """Judges whether x_t is of real data or of a student's."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Logits (B,), high for real, from x_t (B, ...) at t (B,); label (B,) if the data has classes."""


@final
class ConvDiscriminator(DiffusedDiscriminator):
    """Convolutions that halve the image, told how noisy it is. Ours: DMD2 puts a head on the fake score.

    It sees x_t / sqrt(alpha^2 + sigma^2), and beside it a channel with the logarithm of sigma / alpha.

    Args:
        width: channels after the first convolution; each one that halves doubles them.

    Raises:
        ValueError: if the samples are no images, or their sides cannot be halved.
    """

    def __init__(self, schedule: NoiseSchedule, sample_shape: tuple[int, ...], width: Count = 32) -> None:
        super().__init__()
        if len(sample_shape) != 3 or min(sample_shape[1:]) < 4 or any(side % 4 for side in sample_shape[1:]):
            raise ValueError(
                f"works on images (channels, height, width) with sides 4, 8, 12, ..., not {sample_shape}"
            )
        self._schedule = schedule
        channels, height, _ = sample_shape
        layers: list[nn.Module] = [nn.Conv2d(channels + 1, width, 3, padding=1)]
        side = height
        while side % 2 == 0 and side > 4:
            layers += [
                nn.SiLU(),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
                nn.GroupNorm(1, 2 * width),
            ]
            side, width = side // 2, 2 * width
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU())
        self.linear = nn.Linear(width, 1)

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (torch.as_tensor(scale) for scale in self._schedule.at(t, x_t))
        ratio = (sigma / alpha.clamp(min=1e-4)).log() / 4
        x = torch.cat([x_t / (alpha.square() + sigma.square()).sqrt(), ratio.expand_as(x_t[:, :1])], dim=1)
        logits: Tensor = self.linear(self.layers(x).mean(dim=(2, 3)))
        return logits.squeeze(1)
