"""The gradients of one network as views of one buffer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from toolkit.devices.placement import Placement
from toolkit.devices.processes import Processes

# A CPU that adds up 36 million squares in float32 loses 0.2 % of the norm (measured); in pieces of this
# length it loses 2e-7, in the same time.
PIECE = 2**16


class Gradients:
    """One flat buffer for a network's gradients: zeroed, summed over processes and clipped in one go.

    Where networks are in parts, it is for the parts that lie here.

    In the first cycle of turns, and in the first after some have woken, parameters start without a gradient,
    which reveals those that get none; afterwards they accumulate into the buffer. A parameter that a later
    turn does not reach has a zero one.
    """

    def __init__(self, network: nn.Module, placement: Placement) -> None:
        self._placement = placement
        # What the author froze has requires_grad off here, when the trainer first sees it, and stays frozen.
        self.names = [name for name, p in network.named_parameters() if p.requires_grad]
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.missing = set(self.names)
        self._asleep: frozenset[str] = frozenset()
        self.woken: frozenset[str] = frozenset()  # at the last change; their first gradient is awaited too
        self._awake = self.parameters
        first = self.parameters[0]
        sizes = [placement.local(p).numel() for p in self.parameters]
        self._flat = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        parts = zip(self._flat.split(sizes), self.parameters, strict=True)
        self._views = [placement.around(part, p) for part, p in parts]
        self._pieces = self._flat.split(PIECE)

    def sleep(self, names: Iterable[str]) -> None:
        """Freeze these parameters, and no others, until the next call; optimizers pass them over.

        A zero gradient would not do: momentum and weight decay still move it, and Adam counts its steps.
        """
        if (asleep := frozenset(names)) == self._asleep:
            return
        self.woken, self._asleep = self._asleep - asleep, asleep
        self.missing = (self.missing | self.woken) - asleep
        self._awake = [p for name, p in zip(self.names, self.parameters, strict=True) if name not in asleep]
        for p in self.parameters:
            p.requires_grad_(False)  # `require` un-freezes those that are awake
            p.grad = None
        self._bind()

    def _bind(self) -> None:
        """Let the gradients of all that is awake accumulate into the buffer."""
        for name, p, view in zip(self.names, self.parameters, self._views, strict=True):
            if name not in self._asleep:
                p.grad = view

    def zero(self) -> None:
        self._flat.zero_()
        if self.missing:
            for p in self.parameters:
                p.grad = None

    def collect(self, processes: Processes) -> None:
        """After the backward passes of a turn: sum them over processes, each into its part of the buffer."""
        if self.missing:
            self._gather()
        self._placement.add_(self._flat, processes)

    def _gather(self) -> None:
        """Make sure that every gradient lies in the buffer."""
        for name, p, view in zip(self.names, self.parameters, self._views, strict=True):
            if p.grad is not None:
                view.copy_(p.grad)
                self.missing.discard(name)
        self._bind()

    def settle(self) -> None:
        """After the first cycle: gradients accumulate into the buffer from now on."""
        self.missing.clear()
        self._bind()

    def require(self, wanted: bool) -> None:
        """Freeze or un-freeze the network, except what its author froze and what is asleep."""
        if self._awake and self._awake[0].requires_grad != wanted:
            for p in self._awake:
                p.requires_grad_(wanted)

    def clip(self, max_norm: float | None) -> Tensor:
        """The norm (scalar) of the gradient, which is then scaled down to `max_norm` if it is larger."""
        here = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._pieces)))
        norm = self._placement.norm(here)
        if max_norm is not None:
            self._flat.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm
