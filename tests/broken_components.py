"""One component for each check of the conformance kit, broken so that this check fails."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toolkit import (
    Chain,
    DataSource,
    Denoise,
    Denoiser,
    DenoisingLoss,
    Encoder,
    Metric,
    Noise,
    NoiseSchedule,
    Prediction,
    Sampler,
    SamplerStep,
    Scale,
    Score,
    Start,
    Steps,
    Subject,
    Time,
    TimestepSampler,
    randn,
)
from toolkit.diffusion.continuous import RectifiedFlow
from toolkit.diffusion.samplers import Ancestral
from toolkit.testing.oracles import MEAN

BETAS = torch.linspace(0.01, 0.9, 20)


def ends_early() -> NoiseSchedule:
    return Chain(BETAS / 20)


class Flat(Chain):
    """The sixth step adds nothing."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(torch.where(t == 5, 4, t))

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(torch.where(t == 5, 4, t))


class Noisier(Chain):
    def advance(self, x_s: Tensor, s: Time, t: Time, noise: Tensor) -> Tensor:
        return super().advance(x_s, s, t, 1.1 * noise)


class Swapped(Chain):
    def posterior(self, x0: Tensor, x_t: Tensor, s: Time, t: Time) -> tuple[Tensor, Scale]:
        return super().posterior(x_t, x0, s, t)


def flat() -> NoiseSchedule:
    return Flat(BETAS)


def noisier() -> NoiseSchedule:
    return Noisier(BETAS)


def swapped() -> NoiseSchedule:
    return Swapped(BETAS)


class Uphill(RectifiedFlow):
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.ones_like(t)


class Unfinished(RectifiedFlow):
    def grid(self, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        return (*super().grid(n, spacing)[:-1], 1e-3)


class Altered(Sampler):
    """Ancestral sampling, with something done to the images."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self._schedule, self._right = schedule, Ancestral(schedule)

    def alter(self, images: Tensor) -> Tensor:
        return images

    def stepper(self) -> SamplerStep:
        right = self._right.stepper()

        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            x_s = right(denoise, x_t, t, s, noise)
            return self.alter(x_s) if s == self._schedule.clean else x_s

        return step


class Wide(Altered):
    def alter(self, images: Tensor) -> Tensor:
        return MEAN + 1.2 * (images - MEAN)


class OfItsOwnMind(Altered):
    def alter(self, images: Tensor) -> Tensor:
        return images + 1e-6 * torch.randn_like(images)


class Sociable(Altered):
    def alter(self, images: Tensor) -> Tensor:
        return images + 0.02 * (images - images.mean(0))


class AsksTwiceAboutPixels(Altered):
    def stepper(self) -> SamplerStep:
        right = super().stepper()

        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            if x_t.shape[-1] == 1:
                denoise(x_t, t)
            return right(denoise, x_t, t, s, noise)

        return step


class Squared(DenoisingLoss):
    def alter(self, rows: Tensor) -> Tensor:
        return rows

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        error = prediction.noise - noise
        return self.alter(error.square().flatten(1).mean(1))


class Column(Squared):
    def alter(self, rows: Tensor) -> Tensor:
        return rows[:, None]


class Relative(Squared):
    def alter(self, rows: Tensor) -> Tensor:
        return rows / rows.detach().mean()


class Drawing(Squared):
    def alter(self, rows: Tensor) -> Tensor:
        return rows + 0 * torch.rand(())


class OfItsBatch(Encoder):
    """Latents that are images less the mean of the batch."""

    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(image_shape)

    def encode(self, images: Tensor) -> Tensor:
        return images - images.mean(0)

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class Weighted(TimestepSampler):
    """Draws t in proportion to t + 1, or to what it was taught, with the right weights."""

    def __init__(self, schedule: Chain) -> None:
        super().__init__()
        total = schedule.num_train_timesteps
        self.p = torch.arange(1, total + 1).double() / (total * (total + 1) / 2)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        t = torch.multinomial(self.p, n, replacement=True)
        return t, (1 / (len(self.p) * self.p[t])).float()


class Double(Weighted):
    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        t, weight = super().draw(n, device)
        return t, weight.double()


class Unweighted(Weighted):
    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        t, weight = super().draw(n, device)
        return t, torch.ones_like(weight)


class WithNumpy(Weighted):
    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        np.random.rand()
        return super().draw(n, device)


class Forgetful(Weighted):
    def observe(self, t: Tensor, loss: Tensor) -> None:
        mass = torch.ones_like(self.p).index_add_(0, t, loss.double())
        self.p = mass / mass.sum()


class Net(Denoiser):
    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule, self.scale = schedule, nn.Parameter(torch.rand(()))

    def x0(self, x_t: Tensor) -> Tensor:
        return self.scale * x_t

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        return Prediction(self.schedule, x_t, t, x0=self.x0(x_t))


class Precise(Net):
    def x0(self, x_t: Tensor) -> Tensor:
        return super().x0(x_t).double()


class Centred(Net):
    def x0(self, x_t: Tensor) -> Tensor:
        return super().x0(x_t - x_t.mean(0))


class Dicing(Net):
    def x0(self, x_t: Tensor) -> Tensor:
        return super().x0(x_t) + 0 * torch.rand(())


class Unsaved(Net):
    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule)
        self.shift = torch.randn(())

    def x0(self, x_t: Tensor) -> Tensor:
        return super().x0(x_t) + self.shift


class Secretive(Net):
    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        shift = 0.0 if label is None else label[:, None].float()
        return Prediction(self.schedule, x_t, t, x0=self.x0(x_t) + shift)


class Farsighted(Net):
    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        way = torch.zeros(1) if s is None else (t - s).float()
        return Prediction(self.schedule, x_t, t, x0=self.x0(x_t) + way[:, None])


class Points(DataSource):
    image_shape, num_classes = (2,), 4

    def __len__(self) -> int:
        return 32

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.stack([indices, -indices], 1).float(), indices % 4


class CountsFromOne(Points):
    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().read(indices)[0], indices % 4 + 1


class Misremembers(Points):
    def all_labels(self) -> Tensor:
        return torch.zeros(32, dtype=torch.int64)


class Sorting(Points):
    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().read(indices.sort().values)


class Unpicklable(Points):
    def __init__(self) -> None:
        self.transform = lambda x: x


class Stirring(Points):
    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        torch.rand(())
        return super().read(indices)


class Leaking(Points):
    def held_out(self) -> DataSource:
        return Points()


class FixedStart(Start):
    def __init__(self, schedule: NoiseSchedule) -> None:
        self.time = schedule.noisiest

    def draw(self, shape: Sequence[int], generators: Any, t: float, device: torch.device) -> Tensor:
        return randn(shape, generators, device)


class Beyond(FixedStart):
    def __init__(self, schedule: NoiseSchedule) -> None:
        self.time = schedule.noisiest + 1


class TooPrecise(FixedStart):
    def draw(self, shape: Sequence[int], generators: Any, t: float, device: torch.device) -> Tensor:
        return super().draw(shape, generators, t, device).double()


class OneForAll(FixedStart):
    def draw(self, shape: Sequence[int], generators: Any, t: float, device: torch.device) -> Tensor:
        return torch.randn(*shape, generator=generators[0])


class Infinite(Metric):
    def measure(self, subject: Subject) -> Score:
        return Score({"infinite": float("inf")})


class Moody(Metric):
    def measure(self, subject: Subject) -> Score:
        return Score({"moody": float(torch.rand(()))})


class Meddling(Metric):
    def measure(self, subject: Subject) -> Score:
        subject.pipeline.denoiser.train()
        return Score({"meddling": 1.0})
