"""An exact denoiser, data of one image, and tiny networks as they were initialised."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import DataSource, Denoiser, NoiseSchedule, Pipeline, Prediction, Registry
from toolkit.pipeline.folder import Saved
from toolkit.randomness import generators_for
from toolkit.registry import load as plugins

LINEAR = {"type": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
SHORT = {"type": "linear", "num_train_timesteps": 20, "beta_start": 1e-3, "beta_end": 0.3}
UNET = {
    "type": "unet", "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "add_attention": False,
}  # fmt: skip


class OneImage(DataSource):
    """One image of noise, over and over."""

    num_classes = None

    def __init__(self, seed: int = 0, size: int = 8, channels: int = 1, length: int = 1) -> None:
        self.image_shape = (channels, size, size)
        generator = torch.Generator().manual_seed(seed)
        self.pixels = torch.randint(256, self.image_shape, generator=generator, dtype=torch.uint8)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Tensor) -> tuple[Tensor, None]:
        return self.pixels.expand(len(indices), -1, -1, -1), None

    @property
    def image(self) -> Tensor:
        """(C, H, W) in [-1, 1]."""
        return self.pixels / 127.5 - 1


class Exact(Denoiser):
    """E[noise | x_t] where all data is `OneImage`; remembers the timesteps that it is asked about."""

    def __init__(self, schedule: NoiseSchedule, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.schedule, self.asked = schedule, []
        self.register_buffer("x0", OneImage(size=sample_shape[1]).image)
        self.idle = nn.Parameter(torch.zeros(()))  # says on which device it is

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.asked.append(int(t[0]))
        noise = (x_t - self.schedule.at(t, x_t)[0] * self.x0) / self.schedule.at(t, x_t)[1]
        return Prediction(self.schedule, x_t, t, noise=noise)


@cache
def registry() -> Registry:
    found = plugins.load().registry.copy()
    found.add(Denoiser, "exact", Exact)
    found.add(DataSource, "one_image", OneImage)
    return found


def make(start: dict[str, Any] | None = None, shape: tuple[int, ...] = (1, 8, 8), **tables: Any) -> Pipeline:
    """A pipeline, by default of the exact denoiser on the chain of 1000 steps."""
    classes = tables.pop("classes", None)
    stated = {
        "schedule": LINEAR, "network": {"type": "exact"}, "sampler": {"type": "ancestral"},
        "start": start or {"type": "noise"}, **tables,
    }  # fmt: skip
    torch.manual_seed(0)
    return Pipeline.from_saved(Saved(sample_shape=shape, num_classes=classes, **stated), registry(), "here")


def tiny(start: dict[str, Any] | None = None, **tables: Any) -> Pipeline:
    """A pipeline of a tiny U-Net on a chain of 20 steps, which any installation can load."""
    return make(start, **{"network": UNET, "schedule": SHORT, **tables})


def from_image(t_mid: int, **image: int) -> dict[str, Any]:
    """The table of a start from one image."""
    return {"type": "surrogate", "t_mid": t_mid, "data": {"type": "one_image", **image}}


def together(pipeline: Pipeline, num: int, **options: Any) -> Tensor:
    return torch.cat(list(pipeline.sample(num, **options)))


def seeded(seed: int, n: int) -> list[torch.Generator]:
    return generators_for(seed, 0, n, torch.device("cpu"))
