"""A denoiser without levels: dilated convolutions at full size."""

from typing import Annotated, final

from pydantic import Field
from torch import Tensor, nn

from toolkit import Denoiser, NoiseSchedule, Prediction, refuse_target

GROUPS = 8  # of every GroupNorm


class DilatedLayer(nn.Module):
    """y + conv(y) with y = x + time, then GroupNorm and SiLU of the sum, shortcut and all."""

    def __init__(self, width: int, dilation: int, *, normalised: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.after = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU()) if normalised else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = x + time
        out: Tensor = self.after(y + self.conv(y))
        return out


@final
class DilatedConv(Denoiser):
    """Residual 3x3 convolutions, dilated 1, 1, 1, 3, 3, 9, 9, 27, ... times, that predict the noise.

    The denoiser of the report that this toolkit's methods are compared with, as far as it can be inferred:
    the report states hyper-parameters, and they are those of a public notebook with this network.

    Args:
        width: channels of all layers.
        layers: their number, besides the convolutions at both ends.

    Raises:
        ValueError: for data that is no images.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        width: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)] = 256,
        layers: Annotated[int, Field(ge=1)] = 8,
    ) -> None:
        super().__init__()
        if len(sample_shape) != 3:
            raise ValueError(f"dilated_conv works on images (channels, height, width), not on {sample_shape}")
        from diffusers.models.embeddings import Timesteps  # takes seconds to import

        channels = sample_shape[0]
        refuse_target(schedule, "noise")
        self._schedule = schedule
        self.first = nn.Conv2d(channels, width, 7, padding=3)
        self.time = nn.Sequential(
            Timesteps(width, flip_sin_to_cos=False, downscale_freq_shift=1),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )
        dilations = [1, *(3 ** (i // 2) for i in range(layers - 1))]
        self.layers = nn.ModuleList(DilatedLayer(width, d, normalised=i > 0) for i, d in enumerate(dilations))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        h, time = self.first(x_t), self.time(t)[:, :, None, None]
        for layer in self.layers:
            h = layer(h, time)
        return Prediction(self._schedule, x_t, t, noise=self.last(h).float())
