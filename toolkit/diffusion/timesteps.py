"""Timestep samplers: at which times a training step computes its loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.diffusion.chain import Chain
from toolkit.diffusion.continuous import Continuous
from toolkit.diffusion.schedule import NoiseSchedule

Above = Annotated[float, Field(gt=0)]


class TimestepSampler(nn.Module, ABC):
    """Draws times, with weights; its state is buffers.

    On a chain the weights make E[weight f(t)] the uniform mean of f. On a continuous path the distribution of
    t may itself be the choice of a method; its weights are then 1.
    """

    extra: int = 0  # further draws per row and step, whose losses observe() wants without gradient

    @property
    def learns(self) -> bool:
        """Whether observe() is overridden; if not, no losses are gathered."""
        return type(self).observe is not TimestepSampler.observe

    @abstractmethod
    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Times t (n,) and weights (n,) float32, on `device`, from torch's default generator.

        t is int64, indices of the original chain, or float32 on a continuous path.
        """

    def draw_rows(self, rows: range, total: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`draw` for these `rows` of a global batch of `total`; override if rows are not independent."""
        return self.draw(len(rows), device)

    def observe(self, t: Tensor, loss: Tensor) -> None:
        """Learn from the unweighted losses (N,) at t (N,), in the order of the global batch."""
        return None

    def records(self, t: Tensor, losses: Tensor, again: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The `Loss.records` of a step that observe() learns from, (B, 1 + extra) each; empty if it does not.

        `losses` (B,) are the unweighted losses at t (B,); `again` computes those of the same rows at further
        times, without gradient.
        """
        if not self.learns:
            return {}
        drawn, seen = [t], [losses.detach()]
        for _ in range(self.extra):
            drawn.append(self.draw(len(t), t.device)[0])
            seen.append(again(drawn[-1]))
        return {"t": torch.stack(drawn, 1), "loss": torch.stack(seen, 1)}

    def observe_records(self, records: Mapping[str, Tensor]) -> None:
        """Pass what records() returned to observe(): the first draw of every row, then the second, ..."""
        if "t" in records:
            self.observe(records["t"].T.flatten(), records["loss"].T.flatten())


class Uniform(TimestepSampler):
    """Uniform over the times of the path, with weight 1 (Ho et al. 2020, algorithm 1)."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self._place = _Place(schedule)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return self._place.uniform(n, device), torch.ones(n, device=device)


class Stratified(TimestepSampler):
    """The path is cut into as many equal parts as the global batch has rows, and row i draws from part i.

    Over a batch that is the distribution of `uniform` with less variance (Kingma et al. 2021). Weight 1.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self._place = _Place(schedule)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.draw_rows(range(n), n, device)

    def draw_rows(self, rows: range, total: int, device: torch.device) -> tuple[Tensor, Tensor]:
        first = torch.arange(rows.start, rows.stop, device=device)
        share = (first + torch.rand(len(rows), device=device)) / total
        return self._place.at(share.clamp(max=1 - 1e-7)), torch.ones(len(rows), device=device)


class LogitNormal(TimestepSampler):
    """t = sigmoid(m + s n), n ~ N(0, 1), on a path from 0 to 1, with weight 1 (Esser et al. 2024).

    Args:
        mean: m; a lower one favours less noise.
        std: s.
        shift: a in t <- a t / (1 + (a - 1) t); above 1 favours more noise, for larger images.
    """

    def __init__(self, schedule: Continuous, mean: float = 0.0, std: Above = 1.0, shift: Above = 1.0) -> None:
        super().__init__()
        if (schedule.clean, schedule.noisiest) != (0.0, 1.0):
            raise ValueError(
                f"a logit-normal time is from 0 to 1, and this path runs to {schedule.noisiest:g}"
            )
        self.mean, self.std, self.shift = mean, std, shift

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        t = torch.sigmoid(self.mean + self.std * torch.randn(n, device=device))
        return self.shift * t / (1 + (self.shift - 1) * t), torch.ones(n, device=device)


class LogNormal(TimestepSampler):
    """ln t ~ N(mean, std^2) on a path whose time is sigma, with weight 1 (Karras et al. 2022).

    Args:
        mean: of ln sigma.
        std: of ln sigma.
    """

    def __init__(self, schedule: Continuous, mean: float = -1.2, std: Above = 1.2) -> None:
        super().__init__()
        if not schedule.time_is_sigma:
            raise ValueError("a log-normal time is for paths whose time is sigma, with alpha = 1")
        self.mean, self.std = mean, std

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        t = torch.exp(self.mean + self.std * torch.randn(n, device=device))
        return t, torch.ones(n, device=device)


class _Place(nn.Module):
    """Maps shares in [0, 1) to times: kept timesteps of a chain, or real times of a continuous path."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        kept = schedule.timesteps if isinstance(schedule, Chain) else None
        self.register_buffer("timesteps", kept, persistent=False)
        self._clean, self._noisiest = schedule.clean, schedule.noisiest

    def uniform(self, n: int, device: torch.device) -> Tensor:
        timesteps: Tensor | None = self.timesteps  # type: ignore[assignment]
        if timesteps is None:
            return self.at(torch.rand(n, device=device))
        return timesteps.to(device)[torch.randint(len(timesteps), (n,), device=device)]

    def at(self, share: Tensor) -> Tensor:
        """The times (n,) at these shares (n,) in [0, 1) of the way from clean to noisiest."""
        timesteps: Tensor | None = self.timesteps  # type: ignore[assignment]
        if timesteps is None:
            return self._clean + (self._noisiest - self._clean) * share
        return timesteps.to(share.device)[(share * len(timesteps)).long()]
