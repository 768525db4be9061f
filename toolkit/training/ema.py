"""Averages of a network's weights over its training, each kept as a network."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.devices.placement import Placement, Replicated
from toolkit.registry.signature import Positive

# Below sqrt(1 / 12), the width of the mean of all steps; beyond, early steps would count more than late ones.
Width = Annotated[float, Field(gt=0, lt=0.2886)]


@dataclass(frozen=True)
class EMAOptions:
    """Averages of a network's weights: one that is sampled and measured, and any that are for afterwards.

    Args:
        decay: weight of the old average in each step, in [0, 1); this average is sampled and measured. None
            takes the first of `widths` for that.
        ramp: use min(decay, (1 + steps) / (10 + steps)), which follows the first steps closely.
        start: "init" averages from the initial weights (Ho et al. 2020); "first_step" starts as a copy of
            the weights after the first step (Xiao et al. 2022).
        widths: relative widths (sigma_rel) of power-function averages, of which snapshots are kept (Karras et
            al. 2024): the standard deviation of the steps in the average, as a share of the steps so far.
            From two of them, e.g. [0.05, 0.1], any other is reconstructed afterwards.
        snapshot_every: steps between two snapshots; there is one at the end as well.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    ramp: bool = False
    start: Literal["init", "first_step"] = "init"
    widths: tuple[Width, ...] = ()
    snapshot_every: Positive | None = None

    def __post_init__(self) -> None:
        if self.decay is None and not self.widths:
            raise ValueError("states no average: set decay, widths or both")
        if self.decay is None and (self.ramp or self.start != "init"):
            raise ValueError("ramp and start are of the average with a decay, and there is none: set decay")
        if (self.snapshot_every is None) != (not self.widths):
            raise ValueError("widths and snapshot_every are set together: snapshots are of these averages")
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"widths names one of {', '.join(map(str, self.widths))} twice")

    def decay_after(self, updates: int) -> float:
        """The weight of the old average in the update after so many."""
        assert self.decay is not None, "there are only widths"
        if self.start == "first_step" and updates == 0:
            return 0.0
        return min(self.decay, (1 + updates) / (10 + updates)) if self.ramp else self.decay

    def initial_share(self, updates: int) -> float:
        """How much of the average is still the weights that it began with, in [0, 1]; with a ramp none."""
        assert self.decay is not None, "there are only widths"
        return 0.0 if self.ramp else self.decay**updates


@dataclass(frozen=True)
class PowerFunction:
    """An average in which step tau counts as tau^gamma, whatever the number of steps (Karras et al. 2024).

    Args:
        width: sigma_rel.
    """

    width: float

    def decay_after(self, updates: int) -> float:
        """beta(t) = (1 - 1 / t)^(gamma + 1) for t = updates + 1."""
        return float((1 - 1 / (updates + 1)) ** (gamma_of_width(self.width) + 1))

    def initial_share(self, updates: int) -> float:
        """None of the first weights is left after an update."""
        return float(updates == 0)


def gamma_of_width(width: float) -> float:
    """The power gamma of the average of a relative width in (0, sqrt(1 / 12)), by Vieta's formula for cubics.

    width = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)), of which gamma is the largest solution; so that
    u = gamma + 2 solves u^3 + u^2 - s u + s = 0 with s = 1 / width^2.
    """
    s = 1 / width**2
    p, q = -s - 1 / 3, 2 / 27 + 4 * s / 3  # of v = u + 1 / 3: v^3 + p v + q = 0
    v = 2 * math.sqrt(-p / 3) * math.cos(math.acos(3 * q / (2 * p) * math.sqrt(-3 / p)) / 3)
    return v - 1 / 3 - 2


class EMA:
    """The average of a network's weights over steps: avg <- d avg + (1 - d) weights.

    Floating-point buffers are averaged like the weights (batch statistics copied from the last step would not
    fit averaged weights); counters are copied. Our own class, as diffusers' EMAModel ramps the decay even if
    told not to, and always copies in the first step.

    Args:
        network: whose average; a copy of it is kept.
        profile: gives d after so many updates.
        placement: of the network; by default it is whole.
    """

    def __init__(
        self, network: nn.Module, profile: EMAOptions | PowerFunction, placement: Placement | None = None
    ) -> None:
        self.updates = 0
        self._profile, self._placement = profile, placement or Replicated()
        self.network = self._placement.copied(network).requires_grad_(False).eval()
        self._averaged, self._copied = self._split(self.network)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the network's weights after an optimizer step."""
        live, counters = self._split(network)
        decay = self._profile.decay_after(self.updates)
        if decay == 0:  # exact, whatever the rounding of lerp, and what was there may be infinite
            torch._foreach_copy_(self._averaged, live)
        else:
            torch._foreach_lerp_(self._averaged, live, 1 - decay)
        for counter, now in zip(self._copied, counters, strict=True):
            counter.copy_(now)
        self.updates += 1

    def initial_share(self) -> float:
        """How much of the average is still the weights that it began with, in [0, 1]."""
        return self._profile.initial_share(self.updates)

    def _split(self, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """A network's floating-point tensors, as they lie here, and its other ones; each in a fixed order."""
        held = (*network.parameters(), *network.buffers())
        state = [self._placement.local(tensor.detach()) for tensor in held]
        return [t for t in state if t.is_floating_point()], [t for t in state if not t.is_floating_point()]
