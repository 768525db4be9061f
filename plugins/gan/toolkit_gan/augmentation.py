"""What is done alike to real and generated images before the discriminator sees them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn

Count = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(gt=0, lt=1)]


class Augmentation(nn.Module, ABC):
    """A random change of images whose strength may adapt to the discriminator.

    Its state is buffers. It is updated from the global batch, on every process alike.
    """

    @abstractmethod
    def draw(self, n: int, device: torch.device) -> Tensor:
        """The strength of the change for each of n rows, (n,) int64; real and generated images share it."""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Images x (B, ...) changed with strength t (B,), differentiable in x."""

    def observe(self, real: Tensor) -> None:
        """Learn from the logits of the real images, changed, of one update of the discriminator."""
        return None

    def logs(self) -> Mapping[str, Tensor]:
        """What to log of its state."""
        return {}


@final
class Diffusion(Augmentation):
    """Diffusion-GAN: images at t steps of a chain, t uniform on 0..T, with T adaptive (Wang et al. 2023).

        x_t = sqrt(abar_t) x + noise_std sqrt(1 - abar_t) noise

    Every `every` updates of the discriminator T moves: up if E sign(D(x_t)) over real images is above
    `target`, so that the discriminator has it too easy, else down. Numbers are the authors', from memory.

    Args:
        least: lower bound of T, at which it begins.
        most: upper bound of T, the length of the chain.
        target: of E sign(D(x_t)), in [-1, 1].
        every: updates of the discriminator between two moves of T.
        images: real images that the discriminator sees while T goes from least to most, if it always goes up.
        noise_std: standard deviation of the noise; 1 is the chain of DDPM.
        beta_start: first beta of the chain, which are linear.
        beta_end: last beta.

    Raises:
        ValueError: if least is above most.
    """

    alpha: Tensor
    sigma: Tensor
    reach: Tensor
    signs: Tensor
    seen: Tensor
    updates: Tensor

    def __init__(
        self,
        least: Count = 5,
        most: Count = 500,
        target: Annotated[float, Field(ge=-1, le=1)] = 0.6,
        every: Count = 4,
        images: Count = 100_000,
        noise_std: Annotated[float, Field(gt=0)] = 0.05,
        beta_start: Beta = 1e-4,
        beta_end: Beta = 0.02,
    ) -> None:
        super().__init__()
        if least > most:
            raise ValueError(f"least {least} is above most {most}")
        self.least, self.most, self.target, self.every, self.images = least, most, target, every, images
        kept = torch.cumprod(1 - torch.linspace(beta_start, beta_end, most, dtype=torch.float64), 0)
        kept = torch.cat([torch.ones(1, dtype=torch.float64), kept])  # t = 0 is the image itself
        self.register_buffer("alpha", kept.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (noise_std * (1 - kept).sqrt()).float(), persistent=False)
        self.register_buffer("reach", torch.tensor(float(least)))  # T, which moves by fractions of a step
        self.register_buffer("signs", torch.tensor(0.0))  # since the last move
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("updates", torch.tensor(0))

    def draw(self, n: int, device: torch.device) -> Tensor:
        return (torch.rand(n, device=device) * (self.reach.round() + 1)).long().clamp(max=self.most)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        of_rows = (-1, *[1] * (x.ndim - 1))
        alpha, sigma = self.alpha[t].view(of_rows), self.sigma[t].view(of_rows)
        return alpha * x + sigma * torch.randn_like(x)

    def observe(self, real: Tensor) -> None:
        self.signs += real.sign().sum()
        self.seen += len(real)
        self.updates += 1
        due = self.updates % self.every == 0
        step = (
            (self.signs / self.seen - self.target).sign() * self.seen * (self.most - self.least) / self.images
        )
        self.reach.copy_(torch.where(due, (self.reach + step).clamp(self.least, self.most), self.reach))
        for buffer in (self.signs, self.seen):
            buffer.mul_(~due)

    def logs(self) -> Mapping[str, Tensor]:
        return {"diffusion_steps": self.reach}
