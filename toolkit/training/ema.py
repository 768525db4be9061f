"""An exponential moving average of a network, kept as a network."""

import copy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn


@dataclass(frozen=True)
class EMAOptions:
    """An exponential moving average of a network's weights, used for sampling and measuring.

    Args:
        decay: weight of the old average in each step, in [0, 1).
        ramp: use min(decay, (1 + steps) / (10 + steps)), which follows the first steps closely.
        start: "init" averages from the initial weights (Ho et al. 2020); "first_step" starts as a copy of
            the weights after the first step (Xiao et al. 2022).
    """

    decay: Annotated[float, Field(ge=0, lt=1)]
    ramp: bool = False
    start: Literal["init", "first_step"] = "init"


class EMA:
    """The average of a network's weights over steps: avg <- d avg + (1 - d) weights.

    Floating-point buffers are averaged like the weights (batch statistics copied from the last step would not
    fit averaged weights); counters are copied. Our own class, as diffusers' EMAModel ramps the decay even if
    told not to, and always copies in the first step.
    """

    def __init__(self, network: nn.Module, options: EMAOptions) -> None:
        self.options = options
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._averaged, self._copied = _split(self.network)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average with the network's weights after an optimizer step."""
        live, counters = _split(network)
        if self.options.start == "first_step" and self.updates == 0:
            torch._foreach_copy_(self._averaged, live)
        else:
            torch._foreach_lerp_(self._averaged, live, 1 - self._decay())
        for counter, now in zip(self._copied, counters, strict=True):
            counter.copy_(now)
        self.updates += 1

    def initial_share(self) -> float:
        """How much of the average is still the weights that it began with, in [0, 1]."""
        return 0.0 if self.options.ramp else self.options.decay**self.updates

    def _decay(self) -> float:
        if self.options.ramp:
            return min(self.options.decay, (1 + self.updates) / (10 + self.updates))
        return self.options.decay


def _split(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """A network's floating-point tensors, and its other ones; each list in a fixed order."""
    state = [*(p.detach() for p in network.parameters()), *network.buffers()]
    return [t for t in state if t.is_floating_point()], [t for t in state if not t.is_floating_point()]
