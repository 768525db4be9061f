"""How the networks of a run lie on its processes: here whole on each; `toolkit.devices.sharding` in parts."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import final

import torch
from torch import Tensor, nn

from toolkit.devices.processes import Processes
from toolkit.files import digest

CPU = torch.device("cpu")


class Placement(ABC):
    """How the networks of a run lie on its processes.

    What one process does with a network, all do, in the same order: where networks are in parts, even a
    forward pass needs every process.

    Attributes:
        sharded: whether each process holds a part of every parameter only.
    """

    sharded: bool

    @abstractmethod
    def built(self, create: Callable[[], nn.Module]) -> nn.Module:
        """The network that `create` makes, on the CPU; it may have no memory where it is not needed."""

    @abstractmethod
    def loaded(self, load: Callable[[], None]) -> None:
        """Call `load`, which loads weights into built networks, wherever they are needed.

        Raises:
            ToolkitError: the one that `load` raises, on every process.
        """

    @abstractmethod
    def placed(self, network: nn.Module) -> nn.Module:
        """A built network, ready for training or sampling; weights and buffers are the main process's."""

    @abstractmethod
    def copied(self, network: nn.Module) -> nn.Module:
        """A copy of a placed network, placed alike."""

    @abstractmethod
    def whole(self, network: nn.Module) -> nn.Module:
        """A placed network whole, on the main process; on others it may have no weights."""

    @abstractmethod
    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of placed networks whole, on the main process; others may get none."""

    @abstractmethod
    def load(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Load whole tensors, which every process has, into a placed network."""

    @abstractmethod
    def as_placed(self, whole: Tensor, like: Tensor) -> Tensor:
        """A whole tensor, placed like another one of its shape."""

    @abstractmethod
    def replicas(self, network: nn.Module) -> list[Tensor]:
        """The parameters and buffers that every process holds, with the same bits."""

    @abstractmethod
    def digest(self, network: nn.Module) -> str:
        """A hash of the weights of a placed network that is never trained; asks no other process."""

    @abstractmethod
    def local(self, tensor: Tensor) -> Tensor:
        """The part of a parameter, buffer or gradient that lies here, sharing its memory."""

    @abstractmethod
    def around(self, part: Tensor, like: Tensor) -> Tensor:
        """The tensor, placed like another, whose part here is `part`."""

    @abstractmethod
    def add_(self, gradient: Tensor, processes: Processes) -> None:
        """Make of the gradient that this process has computed, in place, the sum over all of them."""

    @abstractmethod
    def norm(self, here: Tensor) -> Tensor:
        """The norm of a gradient whose part here has the norm `here`, both scalar."""

    @abstractmethod
    def second_order(self, networks: Iterable[nn.Module]) -> AbstractContextManager[None]:
        """A context for forward and backward passes that differentiate these networks twice."""


@final
class Replicated(Placement):
    """Every process holds all networks whole.

    Args:
        device: of this process.
    """

    sharded = False

    def __init__(self, device: torch.device = CPU) -> None:
        self._device = device

    def built(self, create: Callable[[], nn.Module]) -> nn.Module:
        return create()

    def loaded(self, load: Callable[[], None]) -> None:
        load()

    def placed(self, network: nn.Module) -> nn.Module:
        return network.to(self._device)  # the trainer gives all processes the weights of the main one

    def copied(self, network: nn.Module) -> nn.Module:
        return copy.deepcopy(network)

    def whole(self, network: nn.Module) -> nn.Module:
        return network

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def load(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        network.load_state_dict(dict(tensors))

    def as_placed(self, whole: Tensor, like: Tensor) -> Tensor:
        return whole

    def replicas(self, network: nn.Module) -> list[Tensor]:
        return [*network.parameters(), *network.buffers()]

    def digest(self, network: nn.Module) -> str:
        return digest(network.state_dict())

    def local(self, tensor: Tensor) -> Tensor:
        return tensor

    def around(self, part: Tensor, like: Tensor) -> Tensor:
        # With the strides of the other, so that channels-last weights have channels-last gradients.
        return part.as_strided(like.shape, like.stride())

    def add_(self, gradient: Tensor, processes: Processes) -> None:
        processes.add_(gradient)

    def norm(self, here: Tensor) -> Tensor:
        return here

    def second_order(self, networks: Iterable[nn.Module]) -> AbstractContextManager[None]:
        return nullcontext()
