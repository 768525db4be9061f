"""The only loop: it knows networks, optimizers and turns, and no method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.data.batches import Batches
from toolkit.data.reading import Rows
from toolkit.devices.placement import Placement, Replicated
from toolkit.devices.processes import Device, Precision, Processes, Sharding, widest
from toolkit.errors import RunError, TrainingError
from toolkit.randomness import position_seed, seed_default_generators
from toolkit.registry.signature import Positive
from toolkit.training.ema import EMA
from toolkit.training.gradients import Gradients
from toolkit.training.objective import Loss, Objective, Step, Turn
from toolkit.training.optimizers import OptimizerOptions

NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class RunOptions:
    """How large the batches are, how long the run is, and where it is kept.

    Args:
        batch_size: images in one optimizer step, over all processes together (the global batch).
        micro_batch_size: images in one forward pass; None takes the whole share of a process, and "auto" the
            largest part of it that fits into an accelerator's memory, tried before the run (not with
            `sharding`); the run folder's recipe states which. The global batch must be a multiple of
            micro_batch_size x processes.
        steps: stop after this many steps. A step is one cycle of the objective's turns.
        images: stop after this many images (steps x batch_size, rounded up to whole steps).
        minutes: stop after this much wall time of the process, in minutes.
        seed: of all randomness; draws are a function of (seed, step, turn, repetition, shard).
        precision: "bf16" runs the loss under autocast; weights and optimizers stay float32. "auto" is bf16 on
            a GPU that computes in it, else float32; the run folder's recipe states which.
        tf32: on a GPU, multiply float32 matrices in TF32, with 10 bits of mantissa and up to 8 times as fast.
        cudnn_benchmark: on a GPU, time the kernels of each convolution once and take the fastest.
        device: "auto" takes the accelerator if there is one.
        sharding: "fsdp" has each of several processes hold a part of every network, average and optimizer
            instead of all; for networks that outgrow a device.
        out: the run folder; None takes runs/<name of the recipe>.
        log_every: steps between two records of metrics; only then do losses leave the device.
        measure_every: steps between two passes over the objective's measures on held-out data; None
            measures at the end only.
    """

    batch_size: Positive
    micro_batch_size: Positive | Literal["auto"] | None = None
    steps: Positive | None = None
    images: Positive | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Precision = "auto"
    tf32: bool = True
    cudnn_benchmark: bool = True
    device: Device = "auto"
    sharding: Sharding | None = None
    out: Path | None = None
    log_every: Positive = 50
    measure_every: Positive | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.images is None and self.minutes is None:
            raise ValueError("states no end: set steps, images or minutes")
        if isinstance(self.micro_batch_size, int) and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.micro_batch_size == "auto" and self.sharding is not None:
            raise ValueError(
                'micro_batch_size = "auto" does not go with sharding: no process can try alone. State a '
                "number"
            )

    @property
    def last_step(self) -> int | None:
        """The step at which the run ends, by steps or images; None if only time ends it."""
        by_images = None if self.images is None else -(-self.images // self.batch_size)
        return min((end for end in (self.steps, by_images) if end is not None), default=None)


@dataclass
class Training:
    """The objects that training changes, by role; a role without an optimizer is never trained.

    Attributes:
        ema: the averages that are sampled and measured.
        widths: averages by role and relative width, of which snapshots are kept; one may be in `ema` too.
        placement: of networks and averages.
    """

    objective: Objective
    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    optimizer_options: dict[str, OptimizerOptions]
    ema: dict[str, EMA] = field(default_factory=dict)
    sums: "Sums" = field(default_factory=lambda: Sums())
    widths: dict[str, dict[float, EMA]] = field(default_factory=dict)
    placement: Placement = field(default_factory=Replicated)

    @property
    def averages(self) -> dict[str, EMA]:
        """All averages by name: a role's own by the role, others with their width behind it."""
        return {name: ema for role in self.ema for name, ema in self.averages_of(role).items()}

    def averages_of(self, role: str) -> dict[str, EMA]:
        """Those of one role, which may have none."""
        sampled = {role: self.ema[role]} if role in self.ema else {}
        named = {f"{role}-{width}": ema for width, ema in self.widths.get(role, {}).items()}
        return {**sampled, **{name: ema for name, ema in named.items() if ema is not sampled[role]}}


class Sums:
    """Running sums of what is logged, kept on the device, where reading them would wait for it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor | float, int]] = {}

    def add(self, name: str, value: Tensor, *, counts: bool = True) -> None:
        """Add a value, or note its name only, if another process `counts` it."""
        # In float64, where the order of so few terms does not show: several processes record what one does.
        total, number = self._sums.get(name, (0.0, 0))
        total = torch.as_tensor(total, dtype=widest(value.device), device=value.device)
        self._sums[name] = (total + value, number + 1) if counts else (total, number)

    def pool(self, processes: Processes) -> dict[str, float]:
        """Give the sums of all processes to the main one; returns the mean of each, on every process."""
        names = sorted(self._sums)
        if not names:
            return {}
        device = processes.device
        wide = widest(device)  # what was pooled or loaded, and not added to since, is a Python number
        totals = torch.stack([torch.as_tensor(self._sums[n][0], dtype=wide, device=device) for n in names])
        numbers = torch.tensor([self._sums[name][1] for name in names], device=device)
        processes.add_(totals)
        processes.add_(numbers)
        pooled = zip(names, totals.tolist(), numbers.tolist(), strict=True)
        mine = int(processes.is_main)
        self._sums = {name: (total * mine, number * mine) for name, total, number in pooled}
        return dict(zip(names, (totals / numbers).tolist(), strict=True))

    def clear(self) -> None:
        self._sums = {}

    def state(self) -> dict[str, list[float]]:
        return {name: [float(total), number] for name, (total, number) in self._sums.items()}

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        self._sums = {name: (float(total), int(number)) for name, (total, number) in state.items()}


class Trainer:
    """Takes the turns of an objective, one step after the other.

    All randomness is seeded by (seed, step, turn, repetition, shard) and the data by position, so a step
    depends only on the state and the step's number. The global batch is cut into shards of the micro-batch
    size; which process computes a shard makes no difference to the result.

    Args:
        training: what is trained; networks are on the processes' device.
        batches: the data.
        processes: all processes of the run.
        options: sizes and the seed.

    Raises:
        RunError: if the global batch is not a multiple of micro_batch_size x processes.
    """

    def __init__(
        self, training: Training, batches: Batches, processes: Processes, options: RunOptions
    ) -> None:
        self.training, self.batches, self.processes, self.options = training, batches, processes, options
        self.number = 0  # steps done
        self.turns = training.objective.turns()
        self.micro_batch, self.micro_batches = share(options, processes.count)
        self._stride = max(turn.times for turn in self.turns)  # global batches that one step may read
        self._bases = {
            role: [group["lr"] for group in optimizer.param_groups]
            for role, optimizer in training.optimizers.items()
        }
        for tensors in self.replicas().values():
            processes.broadcast(tensors)
        for role, network in training.networks.items():
            if role in training.optimizers:
                network.train()  # here as after every preview, on which training must not depend
            else:
                network.requires_grad_(False).eval()
        self._trained = [training.networks[role] for role in training.optimizers]
        self._gradients = {
            role: Gradients(training.networks[role], training.placement) for role in training.optimizers
        }
        self._rows: list[Rows] = []  # of the next step, in order
        self._first_bad = {turn.name: torch.tensor(NEVER, device=processes.device) for turn in self.turns}

    def replicas(self) -> dict[str, list[Tensor]]:
        """What has the same bits on every process, by what it is the state of."""
        training, of = self.training, self.training.placement.replicas
        averages = {f"average of {name}": of(ema.network) for name, ema in training.averages.items()}
        networks = {role: of(network) for role, network in training.networks.items()}
        return {**networks, **averages, "objective": [*training.objective.buffers()]}

    def read(self) -> None:
        """Read the data of the next step, before anything changes; `step` does so otherwise.

        Raises:
            DataError: if an example cannot be read.
        """
        self._rows = [self.batches.read(start, rows) for start, rows in self.requests(self.number + 1)]

    def step(self) -> None:
        """One cycle of the objective's turns.

        Raises:
            DataError: if an example cannot be read; nothing has changed then.
            TrainingError: after the first cycle, if a trained parameter that is not asleep had no gradient in
                any turn; later, if one that has just woken had none.
        """
        asleep = self.training.objective.asleep(self._step(0, 0))
        for role, gradients in self._gradients.items():
            gradients.sleep(asleep.get(role, ()))
        if not self._rows:
            self.read()
        rows, self._rows = iter(self._rows), []
        for turn, repetition in self._due():
            self._take(turn, repetition, rows)
        if any(gradients.missing for gradients in self._gradients.values()):
            self._settle()
        self.number += 1

    def requests(self, last: int | None) -> Iterator[tuple[int, int]]:
        """The (position, rows) of every batch that this process will read from now on, up to step `last`."""
        numbers = count(self.number) if last is None else range(self.number, last)
        for number in numbers:
            for _, repetition in self._due():
                for micro in range(self.micro_batches):
                    yield self._position(number, repetition, micro), self.micro_batch

    def _due(self) -> Iterator[tuple[Turn, int]]:
        """The turns of a step in order, each with its repetitions."""
        for turn in self.turns:
            for repetition in range(turn.times):
                yield turn, repetition

    def _position(self, number: int, repetition: int, micro: int) -> int:
        batch = number * self._stride + repetition
        return batch * self.options.batch_size + self._shard(micro) * self.micro_batch

    def _shard(self, micro: int) -> int:
        return micro * self.processes.count + self.processes.rank

    def _take(self, turn: Turn, repetition: int, rows: Iterator[Rows]) -> None:
        for role, gradients in self._gradients.items():
            network = self.training.networks[role]
            if not network.training:
                network.train()  # frozen or not: BatchNorm in eval() is another network
            gradients.require(role in turn.trains)
        for role in turn.trains:
            self._gradients[role].zero()
        twice = [self.training.networks[role] for role in turn.second_order]
        with self.training.placement.second_order(twice):
            losses = self._accumulate(turn, repetition, rows)
        for role in turn.trains:
            self._update(role)
        if losses[0].records:
            self.training.objective.observe(turn.name, self._gather_records(losses))

    def _accumulate(self, turn: Turn, repetition: int, rows: Iterator[Rows]) -> list[Loss]:
        """The losses of a turn's micro-batches, whose gradients are added up."""
        losses, buffers = [], Buffers(self._trained, self.processes, self.micro_batches)
        for micro in range(self.micro_batches):
            buffers.start()
            key = (self.options.seed, self.number, turn.name, repetition, self._shard(micro))
            seed_default_generators(position_seed(*key), self.processes.device)
            position = self._position(self.number, repetition, micro)
            batch = self.batches.batch(next(rows), position)
            with self.processes.autocast():
                loss = turn.loss(batch, self._step(repetition, micro))
            if loss.total.requires_grad:  # else the turn has called step.backward itself
                self._backward(loss.total)
            self._note(turn.name, loss)
            losses.append(loss)
            buffers.end()
        buffers.join()
        return losses

    def _step(self, repetition: int, micro: int) -> Step:
        networks = self.training.networks
        averages = {name: ema.network for name, ema in self.training.averages.items()}
        processes, first = self.processes, self._shard(micro) * self.micro_batch
        return Step(
            self.number, repetition, processes.device, networks, {**networks, **averages},
            processes.float32, processes.no_grad, self._backward, range(first, first + self.micro_batch),
            self.options.batch_size,
        )  # fmt: skip

    def _backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's loss, or of a part of it."""
        with self.processes.float32():  # backward runs in the types of the forward pass, outside autocast
            (loss / (self.micro_batches * self.processes.count)).backward()

    def _update(self, role: str) -> None:
        """Sum the gradient over processes, clip it, and take one optimizer step."""
        gradients, options = self._gradients[role], self.training.optimizer_options[role]
        gradients.collect(self.processes)
        norm = gradients.clip(options.clip_norm)  # the same on every process
        self._add_log(f"{role}/gradient_norm", norm, counts=self.processes.is_main)
        optimizer = self.training.optimizers[role]
        for group, base in zip(optimizer.param_groups, self._bases[role], strict=True):
            group["lr"] = options.lr_schedule(base, self.number)
        optimizer.step()
        for ema in self.training.averages_of(role).values():
            ema.update(self.training.networks[role])

    def _settle(self) -> None:
        missing = [
            f"{role}.{name}"
            for role, gradients in self._gradients.items()
            for name in gradients.names
            if name in gradients.missing and (self.number == 0 or name in gradients.woken)
        ]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise TrainingError(
                f"no turn gave these parameters a gradient: {shown}. Freeze them (requires_grad_(False)) if "
                "that is meant, or let a turn that trains them use them."
            )
        for gradients in self._gradients.values():
            gradients.settle()

    def _gather_records(self, losses: list[Loss]) -> dict[str, Tensor]:
        """The records of the global batch, in the order of its rows, by one collective.

        They travel as float64, which holds every float32 and every integer below 2^53.
        """
        names = sorted(losses[0].records)
        shapes = [losses[0].records[name].shape for name in names]
        wide = widest(self.processes.device)
        flat = [torch.cat([loss.records[n].detach().to(wide).flatten() for n in names]) for loss in losses]
        shards = self.processes.gather(torch.stack(flat)).transpose(0, 1).flatten(0, 1)
        parts = shards.split([shape.numel() for shape in shapes], dim=1)
        return {
            name: part.reshape(-1, *shape[1:]).to(losses[0].records[name].dtype)
            for name, part, shape in zip(names, parts, shapes, strict=True)
        }

    def _note(self, turn: str, loss: Loss) -> None:
        """Keep a loss on the device for the next record: reading it would wait for the device."""
        total = loss.total.detach()
        here = torch.where(torch.isfinite(total), NEVER, self.number)
        self._first_bad[turn] = torch.minimum(self._first_bad[turn], here)
        self._add_log(f"{turn}/loss", total)
        for name, value in loss.logs.items():
            self._add_log(f"{turn}/{name}", value.detach())

    def _add_log(self, name: str, value: Tensor, *, counts: bool = True) -> None:
        here = value.to(self.processes.device, torch.float32, non_blocking=True)
        self.training.sums.add(name, here, counts=counts)

    def take_logs(self, *, keep: bool = False) -> dict[str, float]:
        """The means since the last call over all processes, which are then reset unless you `keep` them.

        Raises:
            TrainingError: if a loss was not finite, naming the step and the turn.
        """
        self.check_finite()
        means = self.training.sums.pool(self.processes)
        if not keep:
            self.training.sums.clear()
        return means

    def learning_rates(self) -> dict[str, float]:
        """Those of the last step, as `<role>/lr`."""
        optimizers = self.training.optimizers.items()
        return {f"{role}/lr": float(optimizer.param_groups[0]["lr"]) for role, optimizer in optimizers}

    def check_finite(self) -> None:
        """Raise a TrainingError that names the first step and turn whose loss was not finite, if any."""
        first = self.processes.gather(torch.stack(list(self._first_bad.values()))).amin(0).tolist()
        step, turn = min(zip(first, self._first_bad, strict=True))
        if step != NEVER:
            raise TrainingError(f"the loss of turn {turn!r} is not finite at step {step}")

    def finite_here(self) -> bool:
        """Whether losses and weights of this process are finite; asks no other."""
        losses = all(int(first) == NEVER for first in self._first_bad.values())
        return losses and bool(self._finite_weights().all())

    def check_weights(self) -> None:
        """Raise a TrainingError if a trained weight is not finite: the next loss would show it too late."""
        finite = self.processes.gather(self._finite_weights()).all(0).tolist()
        for role, whether in zip(self.training.optimizers, finite, strict=True):
            if not whether:
                raise TrainingError(f"the weights of {role!r} are not finite after step {self.number - 1}")

    def _finite_weights(self) -> Tensor:
        """Whether the weights of each trained network that lie here are finite, (roles,)."""
        local = self.training.placement.local
        return torch.stack([
            torch.stack([local(p).isfinite().all() for p in self.training.networks[role].parameters()]).all()
            for role in self.training.optimizers
        ])  # fmt: skip


class Buffers:
    """The buffers that a turn's forward passes change, such as BatchNorm's statistics.

    Every shard starts from those before the turn, and afterwards they become the mean over all shards in
    their order, so that it makes no difference which process computes which shard.

    Args:
        networks: whose buffers.
        processes: of the run.
        micro_batches: shards that this process computes.
    """

    def __init__(self, networks: Sequence[nn.Module], processes: Processes, micro_batches: int) -> None:
        several = processes.count * micro_batches > 1  # else they are as forward leaves them
        self._networks = [n for n in networks if several and next(n.buffers(), None) is not None]
        self._processes = processes
        self._before = [buffer.clone() for buffer in self._now()]
        self._ends: list[Tensor] = []

    def start(self) -> None:
        """Before the forward pass of a shard; before the first one, this changes nothing."""
        for buffer, before in zip(self._now(), self._before, strict=True):
            buffer.copy_(before)

    def end(self) -> None:
        """After the backward pass of a shard, which may still need the buffers."""
        # All of them: batch normalisation changes its own without telling autograd's version counter.
        if averaged := [buffer.flatten() for buffer in self._now() if buffer.is_floating_point()]:
            wide = widest(self._processes.device)  # in float64 the mean of equal values is that value
            self._ends.append(torch.cat([buffer.to(wide) for buffer in averaged]))

    def join(self) -> None:
        """After the last shard; counters, which are no floating-point numbers, are equal everywhere."""
        if not self._ends:
            return
        shards = self._processes.gather(torch.stack(self._ends)).transpose(0, 1).flatten(0, 1)
        averaged = [buffer for buffer in self._now() if buffer.is_floating_point()]
        means = shards.mean(0).split([buffer.numel() for buffer in averaged])
        for buffer, mean in zip(averaged, means, strict=True):
            buffer.copy_(mean.view_as(buffer))

    def _now(self) -> list[Tensor]:
        return [buffer for network in self._networks for buffer in network.buffers()]


def share(options: RunOptions, processes: int) -> tuple[int, int]:
    """The micro-batch size, and how many micro-batches each process computes for an optimizer step.

    Raises:
        RunError: if the global batch is not a multiple of micro_batch_size x processes.
    """
    stated = options.micro_batch_size
    micro = stated if isinstance(stated, int) else max(1, options.batch_size // processes)
    if options.batch_size % (micro * processes):
        raise RunError(
            f"[run] batch_size {options.batch_size} must be a multiple of micro_batch_size x processes = "
            f"{micro} x {processes} = {micro * processes}"
        )
    return micro, options.batch_size // (micro * processes)
