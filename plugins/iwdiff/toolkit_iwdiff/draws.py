"""Several noises a sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from toolkit import Batch, DenoisingLoss, NoiseSchedule


@final
@dataclass(frozen=True)
class Draws:
    """k noises for each sample of a micro-batch, at one timestep a sample.

    Row b k + i is draw i of sample b: the rows of a sample lie together, so that losses are a view (b, k).

    Attributes:
        schedule: the path.
        batch: the samples, B of them.
        t: (B,) int64.
        noise: (B k, ...).
    """

    schedule: NoiseSchedule
    batch: Batch
    t: Tensor
    noise: Tensor

    @classmethod
    def of(cls, schedule: NoiseSchedule, batch: Batch, t: Tensor, k: int) -> "Draws":
        """Fresh noises, from torch's own generator in one call."""
        return cls(schedule, batch, t, torch.randn(k * len(t), *batch.images.shape[1:], device=t.device))

    @property
    def k(self) -> int:
        return len(self.noise) // len(self.t)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Samples (n,) and all their rows (n k,), at once no more rows than the micro-batch has samples."""
        samples = torch.arange(len(self.t), device=self.t.device)
        within = torch.arange(self.k, device=self.t.device)
        for some in samples.split(max(1, len(self.t) // self.k)):
            yield some, (some[:, None] * self.k + within).flatten()

    def losses(self, loss: DenoisingLoss, denoiser: Any, rows: Tensor) -> Tensor:
        """The loss (n,) of each of these rows (n,)."""
        sample, labels = rows // self.k, self.batch.labels
        label = None if labels is None else labels[sample]
        x0, t, noise = self.batch.images[sample], self.t[sample], self.noise[rows]
        values: Tensor = loss(denoiser(self.schedule.diffuse(x0, t, noise), t, label=label), x0, noise)
        return values
