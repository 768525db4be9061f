"""How data of a shape is drawn: as pictures, points, lines, slices or a histogram."""

from collections.abc import Sequence
from enum import Enum

import torch
from matplotlib.axes import Axes
from torch import Tensor

from toolkit import to_uint8

POINTS = 2000  # samples of points and numbers: a cloud or a histogram needs many
SLICES = 5  # of a volume, side by side


class Form(Enum):
    """What a sample is drawn as."""

    PICTURE = "picture"  # (C, H, W) with up to four channels, in [-1, 1]
    SLICES = "slices"  # any other (..., H, W)
    LINES = "lines"  # (L,) and (C, L): a line a channel
    POINTS = "points"  # (2,) and (3,): the first two coordinates of many samples
    NUMBERS = "numbers"  # (1,): a histogram of many samples

    @property
    def clouds(self) -> bool:
        """Whether many samples are drawn as one."""
        return self in (Form.POINTS, Form.NUMBERS)

    @property
    def pixels(self) -> bool:
        """Whether it consists of pixels, whose colours are to be left alone."""
        return self in (Form.PICTURE, Form.SLICES)


def form_of(shape: Sequence[int], pictures: bool) -> Form:
    """How samples of a shape are drawn; `pictures`: whether they are pictures where their shape allows it."""
    if len(shape) <= 2:
        few = {1: Form.NUMBERS, 2: Form.POINTS, 3: Form.POINTS}
        return few.get(shape[0], Form.LINES) if len(shape) == 1 else Form.LINES
    return Form.PICTURE if pictures and len(shape) == 3 and shape[0] <= 4 else Form.SLICES


def slices(samples: Tensor, frame: Tensor) -> Tensor:
    """Up to `SLICES` evenly spread slices of each sample (n, ..., H, W), as grey pictures.

    Values become [-1, 1] by the least and the greatest in `frame`.

    Returns:
        (n, slices, 1, H, W).
    """
    n, *_, height, width = samples.shape
    planes = samples.reshape(n, -1, height, width)
    count = planes.shape[1]
    places = torch.linspace(0, count - 1, min(SLICES, count)).round().long()
    low, high = reach(frame)
    return ((planes[:, places, None] - low) / max(high - low, 1e-12) * 2 - 1).clamp(-1, 1)


def reach(values: Tensor) -> tuple[float, float]:
    """The least and the greatest finite value; (0, 1) if there is none."""
    finite = values[values.isfinite()]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def draw(axes: Axes, form: Form, one: Tensor, frame: Tensor, colour: str) -> None:
    """Draw a sample, or a cloud of samples, without ticks.

    Args:
        one: a sample, or (n, 1..3) of a cloud.
        frame: samples like it; what is drawn beside it has the same scale if given the same.
    """
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    if form is Form.POINTS:
        axes.scatter(one[:, 0], one[:, 1], s=0.8, color=colour, linewidths=0)
        square(axes, frame)
    elif form is Form.NUMBERS:
        axes.hist(one[one.isfinite()], bins=40, range=reach(frame), color=colour)
    elif form is Form.LINES:
        for channel in one.reshape(-1, one.shape[-1]):
            axes.plot(channel, color=colour, linewidth=0.8, alpha=0.9)
        low, high = reach(frame)
        axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
    else:
        picture = one if form is Form.PICTURE else slices(one[None], frame)[0].flatten(0, 1)
        middle = picture if form is Form.PICTURE else picture[len(picture) // 2][None]
        pixels = to_uint8(middle).permute(1, 2, 0).numpy()
        axes.imshow(pixels if pixels.shape[2] in (3, 4) else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
        axes.spines[:].set_visible(False)


def square(axes: Axes, points: Tensor) -> None:
    """The same limits for both coordinates, beyond all but the farthest points."""
    finite = points[points.isfinite()].abs()
    far = 1.25 * float(finite.quantile(0.999)) if len(finite) else 1.0
    axes.set(xlim=(-far, far), ylim=(-far, far), aspect="equal")
