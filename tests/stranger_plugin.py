"""A stranger's package `toolkit_stranger`: one component of nearly every kind, by public names alone.

`test_stranger_everything.py` installs this file as the package itself.
"""

import math
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

import toolkit
from toolkit import Batch, Chain, Denoiser, Loss, NoiseSchedule, Prediction, Records, Registry, Step, Turn

Positive = Annotated[int, Field(ge=1)]


def sigmoid(num_train_timesteps: Positive, steepness: Annotated[float, Field(gt=0)] = 3.0) -> NoiseSchedule:
    """abar falls from 1 to 0 as a sigmoid does (Jabri et al. 2022).

    Args:
        num_train_timesteps: T, the length of the chain.
        steepness: the sigmoid is taken from minus this to this.
    """
    u = torch.linspace(steepness, -steepness, num_train_timesteps + 1, dtype=torch.float64).sigmoid()
    abar = (u - u[-1]) / (u[0] - u[-1])
    return Chain((1 - abar[1:] / abar[:-1]).clamp(max=0.999))


@final
class TwoStep(toolkit.Sampler):
    """DPM-Solver++(2M): draws a line through the last two estimates of x_0 (Lu et al. 2022, algorithm 2)."""

    def __init__(self, schedule: Chain) -> None:
        self.schedule = schedule

    def grid(
        self, schedule: NoiseSchedule, n: toolkit.Steps | None, spacing: str | None
    ) -> tuple[float, ...]:
        return schedule.grid(n, spacing or "trailing")

    def stepper(self) -> toolkit.SamplerStep:
        before: list[tuple[float, Tensor]] = []  # the last step in log(alpha / sigma), and its estimate

        def step(denoise: toolkit.Denoise, x_t: Tensor, t: float, s: float, noise: toolkit.Noise) -> Tensor:
            x0 = denoise(x_t, t).x0
            if s == self.schedule.clean:
                return x0
            (alpha, sigma), (alpha_s, sigma_s) = self.schedule.at(t, x_t), self.schedule.at(s, x_t)
            length, line = math.log(alpha_s * sigma / (sigma_s * alpha)), x0
            if before:
                last, last_x0 = before.pop()
                line = x0 + length / (2 * last) * (x0 - last_x0)
            before[:] = [(length, x0)]
            shrink = sigma_s / sigma
            return shrink * x_t + (alpha_s - shrink * alpha) * line

        return step


@final
class Spread(toolkit.TimestepSampler):
    """Evenly spread draws (Kingma et al. 2021, I.1), more of them where losses have been large.

    Args:
        memory: how much of the running loss a step leaves.
    """

    running: Tensor

    def __init__(self, schedule: Chain, memory: Annotated[float, Field(ge=0, lt=1)] = 0.9) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("running", torch.ones(schedule.num_train_timesteps))

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        total = len(self.running)
        p = 0.5 * self.running / self.running.sum() + 0.5 / total  # so that no weight is above 2
        u = (torch.arange(n, device=device) + torch.rand(1, device=device)) / n
        t = torch.searchsorted(p.cumsum(0), u).clamp(max=total - 1)
        return t, 1 / (total * p[t])

    def observe(self, t: Tensor, loss: Tensor) -> None:
        sums, counts = torch.zeros_like(self.running), torch.zeros_like(self.running)
        sums.index_add_(0, t, loss)
        counts.index_add_(0, t, torch.ones_like(loss))
        learned = self.memory * self.running + (1 - self.memory) * sums / counts
        self.running.copy_(torch.where(counts > 0, learned, self.running))


@final
class PseudoHuber(toolkit.DenoisingLoss):
    """sqrt(|error|^2 + c^2) - c of the predicted velocity, pixel by pixel (Song & Dhariwal 2023).

    Args:
        c: where it turns from square to linear.
    """

    def __init__(self, c: Annotated[float, Field(gt=0)] = 0.1) -> None:
        super().__init__()
        self.c = c

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        alpha, sigma = prediction.schedule.at(prediction.t, x0)
        error = prediction.velocity - (alpha * noise - sigma * x0)
        return ((error.square() + self.c**2).sqrt() - self.c).flatten(1).mean(1)


@final
class Uncertainty(nn.Module):
    """u(t), the logarithm of the loss to expect; 0 everywhere at first."""

    def __init__(self, schedule: Chain, width: Positive = 8) -> None:
        super().__init__()
        self.total = schedule.num_train_timesteps
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, t: Tensor) -> Tensor:
        """u (B,) at t (B,) int64."""
        logarithm: Tensor = self.layers((t / self.total)[:, None])[:, 0]
        return logarithm


@final
class Weighed(toolkit.Objective):
    """L e^-u(t) + u(t): a second network learns how much a timestep's loss counts (Karras et al. 2024).

    Args:
        timesteps: which timesteps a step looks at.
        loss: L.
    """

    roles = {"denoiser": Denoiser, "uncertainty": Uncertainty}
    samples = "denoiser"

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Annotated[toolkit.TimestepSampler, toolkit.Default("uniform")],
        loss: Annotated[toolkit.DenoisingLoss, toolkit.Default("stranger_huber")],
    ) -> None:
        super().__init__()
        self.schedule, self.timesteps, self.loss = schedule, timesteps, loss

    def turns(self) -> tuple[Turn, ...]:
        return tuple(Turn(role, trains=(role,), loss=self._weighed) for role in self.roles)

    def observe(self, turn: str, records: Records) -> None:
        self.timesteps.observe_records(records)

    def _weighed(self, batch: Batch, step: Step) -> Loss:
        def losses(t: Tensor) -> Tensor:
            x0, noise = batch.images, torch.randn_like(batch.images)
            prediction = step.networks["denoiser"](self.schedule.diffuse(x0, t, noise), t, label=batch.labels)
            found: Tensor = self.loss(prediction, x0, noise)
            return found

        t, weight = self.timesteps.draw(len(batch.images), step.device)
        unweighed, u = losses(t), step.networks["uncertainty"](t)
        total = (weight * (unweighed * (-u).exp() + u)).mean()
        return Loss(total, {"unweighed": unweighed.mean()}, self.timesteps.records(t, unweighed, losses))


@final
class RingsAndBlobs(toolkit.DataSource):
    """Drawn pictures of a ring (label 0) or a blob (label 1).

    Args:
        num: how many; a quarter as many others are held out.
        seed: of where they are.
    """

    image_shape, num_classes = (1, 8, 8), 2

    def __init__(self, num: Positive = 128, seed: int = 0) -> None:
        self.num, self.seed = num, seed
        centre = 2.5 + 2 * torch.rand(num, 2, generator=torch.Generator().manual_seed(seed))
        away = (torch.arange(8.0) - centre[:, :, None]).square()
        distance = (away[:, 0, :, None] + away[:, 1, None, :]).sqrt()
        self.labels = torch.arange(num) % 2
        radius = 2.0 * (1 - self.labels).view(-1, 1, 1)
        drawn = 255 * (-(distance - radius).square()).exp()
        self.images = drawn.to(torch.uint8)[:, None]

    def __len__(self) -> int:
        return self.num

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.labels[indices]

    def held_out(self) -> toolkit.DataSource:
        return RingsAndBlobs(max(1, self.num // 4), self.seed + 1)


@final
class Brightness(toolkit.Metric):
    """How far the mean brightness of samples is from that of real pictures, in [0, 255]."""

    def measure(self, subject: toolkit.Subject) -> toolkit.Score:
        ours, theirs = (float(images.double().mean()) for images in subject.samples())
        off = {"brightness_distance": abs(ours - theirs)}
        return toolkit.Score({**off, "brightness": ours}, better=dict.fromkeys(off, "lower"))


@toolkit.hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(NoiseSchedule, "stranger_sigmoid", sigmoid)
    registry.add(toolkit.Sampler, "stranger_two_step", TwoStep)
    registry.add(toolkit.TimestepSampler, "stranger_spread", Spread)
    registry.add(toolkit.DenoisingLoss, "stranger_huber", PseudoHuber)
    registry.add(toolkit.Network, "stranger_uncertainty", Uncertainty)
    registry.add(toolkit.Objective, "stranger_weighed", Weighed)
    registry.add(toolkit.DataSource, "stranger_shapes", RingsAndBlobs)
    registry.add(toolkit.Metric, "stranger_brightness", Brightness)
