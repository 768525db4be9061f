"""Stacked digits, on which it can be counted how many of 1000 modes a model covers."""

from math import ceil
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import DataSource

Count = Annotated[int, Field(ge=1)]
CHANNELS = 3  # of stacked digits


@final
class StackedDigits(DataSource):
    """StackedMNIST: three independent digits as the channels of one picture, 1000 modes (Metz et al. 2017).

    The class of a picture is 100 R + 10 G + B, where its channels show the digits R, G and B. Any labelled
    source in one channel will do; of n classes it makes n^3. Each channel shows all digits in a random order,
    then in another, and so on, as DDGAN's authors draw them (two orders a channel).

    Args:
        source: the digits; size and padding are its own options.
        length: number of pictures; 120,000 are two orders of MNIST's 60,000 digits, as the authors have.
        seed: decides which digits are together.

    Raises:
        ValueError: if the source has no labels, or not one channel.
    """

    def __init__(
        self, source: DataSource, length: Count = 120_000, seed: Annotated[int, Field(ge=0)] = 0
    ) -> None:
        if source.num_classes is None:
            raise ValueError("the pictures of its source must be labelled, and these are not")
        depth, *sides = source.image_shape
        if depth != 1 or len(sides) != 2:
            raise ValueError(f"stacks pictures of one channel, not data of shape {source.image_shape}")
        self.source, self.seed = source, seed
        self.image_shape = (CHANNELS, *sides)
        self.num_classes = source.num_classes**CHANNELS
        self._weights = source.num_classes ** torch.arange(CHANNELS).flip(0)
        generator = torch.Generator().manual_seed(seed)
        orders = ceil(length / len(source))
        channels = [
            torch.cat([torch.randperm(len(source), generator=generator) for _ in range(orders)])[:length]
            for _ in range(CHANNELS)
        ]
        self._digits = torch.stack(channels, dim=1)

    def __len__(self) -> int:
        return len(self._digits)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.source.read(self._digits[indices].flatten())
        assert labels is not None
        return images.view(-1, *self.image_shape), labels.view(-1, CHANNELS) @ self._weights

    def held_out(self) -> "StackedDigits | None":
        """As many pictures as there are held-out digits, made of these alone."""
        source = self.source.held_out()
        return None if source is None else StackedDigits(source, len(source), self.seed)
