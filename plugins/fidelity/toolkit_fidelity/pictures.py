"""Pictures as published networks want them."""

import torch
from torch import Tensor

from toolkit import DataError


def in_colour(images: Tensor) -> Tensor:
    """Pictures (n, 1 or 3, H, W) with three channels; grey is repeated.

    Raises:
        DataError: if the images have another number of channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"this extractor looks at pictures with 1 or 3 channels, not at {tuple(images.shape[1:])}"
        )
    return images.expand(-1, 3, -1, -1)


def resized(x: Tensor, size: int) -> Tensor:
    """float pictures (n, C, H, W) brought to size x size bilinearly, as TensorFlow 1 does and FID has it.

    Pixel i of the result is at i * H / size, so that the picture is cut at the right and at the bottom, and
    there is no averaging where it shrinks.
    """
    for axis in (3, 2):
        length = x.shape[axis]
        at = torch.arange(size, dtype=x.dtype, device=x.device) * (length / size)
        low = at.long()
        left, right = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=length - 1))
        x = left + (right - left) * (at - low).view(-1, *[1] * (3 - axis))
    return x
