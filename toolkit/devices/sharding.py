"""Networks in parts: each process holds a share of every parameter, by FSDP2 (`fully_shard`)."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from toolkit.devices.networks import blocks
from toolkit.devices.placement import CPU, Placement
from toolkit.devices.processes import Processes
from toolkit.diffusion.prediction import Prediction
from toolkit.errors import RunError
from toolkit.files import digest

META = torch.device("meta")


@final
class Sharded(Placement):
    """Each process holds one of `processes.count` parts of every parameter, gradient and optimizer moment.

    A block of a network is whole on all processes while it computes, and only then; so is, as one more, all
    that belongs to no block. Buffers are whole everywhere. On the way from the CPU of the main process to the
    parts, no device ever holds more than one whole parameter.

    Args:
        processes: of the run; there is a process group.
    """

    sharded = True

    def __init__(self, processes: Processes) -> None:
        self._processes, self._device = processes, processes.device
        self._mesh = init_device_mesh(self._device.type, (processes.count,))
        self._bare: dict[nn.Module, nn.Module] = {}  # each placed network as it was, without weights
        self._digests: dict[nn.Module, str] = {}
        # An output that is a view may not be changed in place; no objective does, and torch would say it anew
        # for every network.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")

    def built(self, create: Callable[[], nn.Module]) -> nn.Module:
        if not self._processes.is_main:
            try:
                with META:
                    return create()
            except (NotImplementedError, RuntimeError):  # a constructor that looks at its numbers
                pass
        return create()

    def loaded(self, load: Callable[[], None]) -> None:
        self._processes.on_main(load)

    def placed(self, network: nn.Module) -> nn.Module:
        bare = without_weights(network, self._device)
        for held, given in zip(bare.buffers(), network.buffers(), strict=True):
            held.copy_(self._from_main(given))
        placed = self._in_parts(bare)
        for part, given in zip(placed.parameters(), network.parameters(), strict=True):
            self._fill(part, self._from_main(given.detach()))
        name = digest(network.state_dict()) if self._processes.is_main else ""
        self._digests[placed] = self._processes.of_main(name)
        return placed

    def copied(self, network: nn.Module) -> nn.Module:
        copied = self._in_parts(copy.deepcopy(self._bare[network]))
        for one, other in zip(copied.parameters(), network.parameters(), strict=True):
            self.local(one.detach()).copy_(self.local(other.detach()))
        for buffer, value in zip(copied.buffers(), network.buffers(), strict=True):
            buffer.copy_(value)
        return copied

    def whole(self, network: nn.Module) -> nn.Module:
        whole = copy.deepcopy(self._bare[network])
        state = self.gathered(network.state_dict())
        if self._processes.is_main:
            whole.load_state_dict(state, assign=True)
            whole.to(CPU)
        return whole.train(network.training)

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        gathered = {}
        for name, tensor in sorted(tensors.items()):  # an order that all processes agree on
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self._processes.is_main:
                gathered[name] = whole.detach().to(CPU)
        return gathered

    def load(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        for name, held in network.state_dict().items():
            self._fill(held, tensors[name])

    def as_placed(self, whole: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return whole
        here = whole.to(self._device)
        return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)

    def replicas(self, network: nn.Module) -> list[Tensor]:
        held = (*network.parameters(), *network.buffers())
        return [tensor for tensor in held if not isinstance(tensor, DTensor)]

    def digest(self, network: nn.Module) -> str:
        return self._digests[network]

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def around(self, part: Tensor, like: Tensor) -> Tensor:
        assert isinstance(like, DTensor), "all parameters are in parts"
        return DTensor.from_local(
            part.view(self.local(like).shape), like.device_mesh, like.placements,
            run_check=False, shape=like.shape, stride=like.stride(),
        )  # fmt: skip

    def add_(self, gradient: Tensor, processes: Processes) -> None:
        gradient.mul_(processes.count)  # each backward pass has left the mean over processes

    def norm(self, here: Tensor) -> Tensor:
        square = here.double().square()
        self._processes.add_(square)
        return square.sqrt().to(here.dtype)

    @contextmanager
    def second_order(self, networks: Iterable[nn.Module]) -> Iterator[None]:
        """Keep these networks whole meanwhile: the graph of a gradient holds on to the whole parameters."""
        held = list(networks)
        for network in held:
            _keep_whole(network, True)
        try:
            yield
        finally:
            for network in held:
                _keep_whole(network, False)
        for network in held:
            self._reduce_rest(network)

    def _reduce_rest(self, network: nn.Module) -> None:
        """Part a network again, with the gradients that came after its units had been reduced."""
        whole = dict(network.named_parameters())
        for unit in _units_of(network):
            unit.reshard()
        for name, parameter in network.named_parameters():
            late, whole[name].grad = whole[name].grad, None
            if whole[name] is parameter or late is None:
                continue
            total = DTensor.from_local(late, self._mesh, [Partial()], run_check=False)
            mean = total.redistribute(self._mesh, [Shard(0)]) / self._processes.count
            parameter.grad = mean if parameter.grad is None else parameter.grad.add_(mean)

    def _in_parts(self, bare: nn.Module) -> nn.Module:
        """The same module in parts, with memory and buffers, but without weights yet."""
        kept = copy.deepcopy(bare)
        buffers = [buffer.clone() for buffer in bare.buffers()]
        try:
            for unit in [*dict(blocks(bare)).values(), bare]:
                # Hooks run in order, so that torch sees the tensors of a prediction between these two.
                unit.register_forward_hook(_opened)
                fully_shard(unit, mesh=self._mesh, reshard_after_forward=True)
                unit.register_forward_hook(_closed)
        except (ValueError, NotImplementedError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"[run] sharding: {type(kept).__name__} cannot lie in parts: {reason}") from None
        type(bare).__name__ = type(kept).__name__  # torch makes a class of the network's own, for its hooks
        placed = bare.to_empty(device=self._device)
        for buffer, value in zip(placed.buffers(), buffers, strict=True):
            buffer.copy_(value)
        for part in _units_of(placed):
            # Torch makes whole parameters once and then fills them; made while sampling, in inference mode,
            # they could not be trained.
            part.unshard()
            part.reshard()
        self._bare[placed] = kept
        return placed

    def _from_main(self, tensor: Tensor) -> Tensor:
        """The main process's tensor, on the device."""
        sent = tensor if self._processes.is_main else torch.empty_like(tensor, device=self._device)
        sent = sent.to(self._device).contiguous()
        torch.distributed.broadcast(sent.reshape(-1).view(torch.uint8), 0)
        return sent

    def _fill(self, held: Tensor, whole: Tensor) -> None:
        self.local(held.detach()).copy_(self.local(self.as_placed(whole, held)))


def without_weights(network: nn.Module, device: torch.device) -> nn.Module:
    """A copy whose parameters have no memory, and whose buffers are on `device`, with any content."""
    memo: dict[int, object] = {}
    for parameter in network.parameters():
        bare = torch.empty_like(parameter, device=META)
        memo[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device=device)
    return copy.deepcopy(network, memo)


def _units_of(network: nn.Module) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def _keep_whole(network: nn.Module, kept: bool) -> None:
    for unit in _units_of(network):
        unit.set_reshard_after_forward(not kept, recurse=False)
        unit.set_reshard_after_backward(not kept, recurse=False)


class _Opened(NamedTuple):
    """A prediction, and its tensors, at which the backward pass through its network begins."""

    prediction: Prediction
    tensors: list[Tensor]


def _opened(module: nn.Module, given: object, output: object) -> object:
    return _Opened(output, output.tensors()) if isinstance(output, Prediction) else output


def _closed(module: nn.Module, given: object, output: object) -> object:
    return output.prediction if isinstance(output, _Opened) else output
