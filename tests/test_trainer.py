"""The loop: whom a turn trains, what it sees, and what the trainer refuses."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from toolkit import Batch, Batches, DataSource, Loss, Objective, Records, Step, Turn
from toolkit.data.batches import DataOptions
from toolkit.devices.processes import Processes
from toolkit.errors import RunError, TrainingError
from toolkit.training.ema import EMA, EMAOptions
from toolkit.training.optimizers import Constant, Cosine, Linear, OptimizerOptions, adam, sgd
from toolkit.training.trainer import RunOptions, Trainer, Training, share


class Points(DataSource):
    """Points (2,): nothing in the loop may assume pictures."""

    image_shape, num_classes = (2,), None

    def __len__(self) -> int:
        return 64

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.stack([indices.float(), -indices.float()], 1) / 64, None


class Recorded(Objective):
    """Turns as a test wants them, remembering every batch and step."""

    roles, samples = {"g": nn.Module, "d": nn.Module}, "g"

    def __init__(self, *turns: Turn) -> None:
        super().__init__()
        self._turns = turns
        self.observed: list[tuple[str, Records]] = []

    def turns(self) -> tuple[Turn, ...]:
        return self._turns

    def observe(self, turn: str, records: Records) -> None:
        self.observed.append((turn, records))


def through_both(batch: Batch, step: Step) -> Loss:
    return Loss(step.networks["d"](step.networks["g"](batch.images)).square().mean())


def noisy(batch: Batch, step: Step) -> Loss:
    moved = batch.images + torch.randn_like(batch.images)
    return Loss(step.networks["d"](step.networks["g"](moved)).square().mean(), records={"x": moved.sum(1)})


@contextmanager
def trainer(
    objective: Objective,
    *,
    lr: float = 0.1,
    networks: dict[str, nn.Module] | None = None,
    clip: float | None = None,
    **run: object,
) -> Iterator[Trainer]:
    torch.manual_seed(0)
    networks = networks or {"g": nn.Linear(2, 2), "d": nn.Linear(2, 1)}
    trained = dict.fromkeys(role for turn in objective.turns() for role in turn.trains)
    optimizers = {role: sgd(networks[role].parameters(), lr) for role in trained}
    options = {role: OptimizerOptions(Constant(), clip) for role in trained}
    run_options = RunOptions(**{"batch_size": 8, "steps": 10, **run})  # type: ignore[arg-type]
    processes = Processes(run_options.device, run_options.precision)
    batches = Batches(Points(), DataOptions(), seed=0, device=processes.device)
    try:
        yield Trainer(Training(objective, networks, optimizers, options), batches, processes, run_options)
    finally:
        processes.__exit__(None)


def state(t: Trainer) -> dict[str, Tensor]:
    return {f"{r}.{k}": v.clone() for r, n in t.training.networks.items() for k, v in n.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_a_turn_moves_the_networks_it_trains_and_no_other() -> None:
    seen: list[bool] = []

    def loss(batch: Batch, step: Step) -> Loss:
        seen.append(all(p.requires_grad for p in step.networks["d"].parameters()))
        return through_both(batch, step)

    for trained in "g", "d":
        with trainer(Recorded(Turn(trained, (trained,), loss))) as t:
            before = state(t)
            t.step()
            assert changed(before, state(t)) == {trained}
    assert seen == [False, True]  # frozen in the turn of g, although the gradient passes through it


def test_gradient_passes_through_a_frozen_network_without_being_collected() -> None:
    with trainer(Recorded(Turn("g", ("g",), through_both)), networks=None) as t:
        t.step()
        assert all(p.grad is None for p in t.training.networks["d"].parameters())
        assert not t.training.networks["d"].training  # a network that is never trained is in eval()


def test_a_loss_may_free_its_graph_part_by_part() -> None:
    def in_parts(batch: Batch, step: Step) -> Loss:
        total = torch.zeros(())
        for rows in batch.images.chunk(2):
            part = through_both(Batch(rows, None, batch.position), step).total / 2
            step.backward(part)
            total += part.detach()
        return Loss(total)

    results = []
    for loss in (through_both, in_parts):
        with trainer(Recorded(Turn("g", ("g",), loss)), micro_batch_size=4) as t:
            t.step()
            results.append((state(t), t.take_logs()))
    (whole, whole_logs), (parts, parts_logs) = results
    assert all(torch.allclose(whole[name], parts[name], atol=1e-7) for name in whole)
    assert parts_logs == pytest.approx(whole_logs) and changed(whole, parts) <= {"g"}


def test_what_the_author_froze_stays_frozen() -> None:
    networks = {"g": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "d": nn.Linear(2, 1)}
    networks["g"][0].requires_grad_(False)  # type: ignore[index]
    with trainer(
        Recorded(Turn("g", ("g",), through_both), Turn("d", ("d",), through_both)), networks=networks
    ) as t:
        before = state(t)
        t.step()
        moved = [name for name, value in state(t).items() if not torch.equal(value, before[name])]
        assert moved == ["g.1.weight", "g.1.bias", "d.weight", "d.bias"]


def test_trained_networks_are_in_training_mode_also_after_a_sampling_call() -> None:
    modes: list[bool] = []

    def loss(batch: Batch, step: Step) -> Loss:
        modes.extend(network.training for network in step.networks.values())
        return through_both(batch, step)

    with trainer(Recorded(Turn("g", ("g",), loss), Turn("d", ("d",), loss))) as t:
        t.step()
        t.training.networks["g"].eval()
        t.step()
        assert modes == [True] * 8


def test_each_repetition_sees_a_batch_of_its_own_and_those_of_all_turns_begin_with_the_same() -> None:
    positions: dict[str, list[int]] = {"three": [], "two": []}

    def note(name: str) -> Callable[[Batch, Step], Loss]:
        def loss(batch: Batch, step: Step) -> Loss:
            positions[name].append(batch.position)
            return through_both(batch, step)

        return loss

    turns = (
        Turn("three", ("d",), note("three"), times=3),
        Turn("two", ("g",), note("two"), times=2),
    )
    with trainer(Recorded(*turns)) as t:
        t.step()
        t.step()
        assert positions == {"three": [0, 8, 16, 24, 32, 40], "two": [0, 8, 24, 32]}
        assert [p for p, _ in t.requests(3)] == [48, 56, 64, 48, 56]


def test_draws_differ_between_turns_repetitions_and_steps_but_not_between_runs() -> None:
    def draws() -> list[float]:
        drawn: list[float] = []

        def loss(batch: Batch, step: Step) -> Loss:
            drawn.append(float(torch.rand(())))
            return through_both(batch, step)

        with trainer(Recorded(Turn("a", ("d",), loss, times=2), Turn("b", ("g",), loss))) as t:
            t.step()
            torch.rand(7)  # somebody else draws: no matter
            t.step()
        return drawn

    first = draws()
    assert len(set(first)) == 6
    assert draws() == first


def test_micro_batches_make_the_step_of_the_whole_batch() -> None:
    turns = (Turn("g", ("g",), through_both), Turn("d", ("d",), through_both))
    with trainer(Recorded(*turns)) as whole, trainer(Recorded(*turns), micro_batch_size=2) as parts:
        whole.step(), parts.step()
        for name, value in state(whole).items():
            assert torch.allclose(value, state(parts)[name], atol=1e-6)


def test_records_come_back_in_the_order_of_the_global_batch() -> None:
    objective = Recorded(Turn("g", ("g",), noisy), Turn("d", ("d",), through_both))
    expected: list[Tensor] = []

    def loss(batch: Batch, step: Step) -> Loss:
        out = noisy(batch, step)
        expected.append(out.records["x"].detach())
        return out

    objective = Recorded(Turn("g", ("g",), loss), Turn("d", ("d",), through_both))
    with trainer(objective, micro_batch_size=2) as t:
        t.step()
    ((name, records),) = objective.observed
    assert name == "g" and torch.equal(records["x"], torch.cat(expected)) and len(records["x"]) == 8


def test_the_gradient_is_clipped_to_its_norm() -> None:
    with trainer(
        Recorded(Turn("g", ("g",), through_both), Turn("d", ("d",), through_both)), lr=1.0, clip=1e-3
    ) as t:
        before = state(t)
        t.step()
        after = state(t)
        moved = torch.cat([(after[n] - before[n]).flatten() for n in before if n.startswith("g")])
        assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_the_norm_of_a_large_gradient_is_exact_to_float32() -> None:
    """Squares added up in one row lose 8e-5 of it at this size, and 2e-3 at 36 million parameters."""
    weight, gradient = nn.Linear(2048, 2048, bias=False), torch.randn(2048, 2048)

    def loss(batch: Batch, step: Step) -> Loss:
        return Loss((step.networks["g"].weight * gradient).sum())

    with trainer(Recorded(Turn("g", ("g",), loss)), networks={"g": weight}, clip=1.0, lr=1.0) as t:
        before = weight.weight.detach().double()
        t.step()
        moved = torch.linalg.vector_norm(weight.weight.detach().double() - before)
        norm = torch.linalg.vector_norm(gradient.double())
        assert t.take_logs()["g/gradient_norm"] == pytest.approx(float(norm), rel=1e-6)
        assert float(moved) == pytest.approx(1, rel=1e-5)


class Sleeper(Recorded):
    """Its network uses the second layer from step 2 on; the first sleeps in step 4."""

    def asleep(self, step: Step) -> Mapping[str, Collection[str]]:
        if step.number == 4:
            return {"g": ["0.weight", "0.bias"]}
        return {"g": ["1.weight", "1.bias"]} if step.number < 2 else {}


def growing(batch: Batch, step: Step) -> Loss:
    first, second = step.networks["g"]
    return Loss((second(first(batch.images)) if step.number >= 2 else first(batch.images)).square().mean())


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.1),
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
])  # fmt: skip
def test_what_is_asleep_is_not_moved_and_wakes_to_a_fresh_optimizer(
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with trainer(Sleeper(Turn("g", ("g",), growing)), networks={"g": network}) as t:
        t.training.optimizers["g"] = optimizer(network.parameters())
        moved = []
        for number in range(6):
            before = state(t)
            if number == 2:
                woken = copy.deepcopy(network[1])
            t.step()
            moved.append({name for name, now in state(t).items() if not torch.equal(now, before[name])})
            if number == 2:  # its first step is that of an optimizer which has not seen it before
                fresh = optimizer(woken.parameters())
                for p, q in zip(woken.parameters(), network[1].parameters(), strict=True):
                    assert q.grad is not None
                    p.grad = q.grad.clone()
                fresh.step()
                assert all(torch.equal(p, network[1].get_parameter(n)) for n, p in woken.named_parameters())
    first, second = {"g.0.weight", "g.0.bias"}, {"g.1.weight", "g.1.bias"}
    assert moved == [first, first, first | second, first | second, second, first | second]


def test_what_wakes_and_is_not_used_is_named() -> None:
    def first_layer(batch: Batch, step: Step) -> Loss:
        return Loss(step.networks["g"][0](batch.images).square().mean())

    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with trainer(Sleeper(Turn("g", ("g",), first_layer)), networks={"g": network}) as t:
        t.step()
        t.step()
        with pytest.raises(TrainingError, match=r"these parameters a gradient: g.1.weight, g.1.bias\."):
            t.step()


def test_a_whole_network_may_sleep() -> None:
    class Later(Recorded):
        def asleep(self, step: Step) -> Mapping[str, Collection[str]]:
            return {} if step.number else {"d": ["weight", "bias"]}

    with trainer(Later(*(Turn(role, (role,), through_both) for role in ("g", "d")))) as t:
        for expected in ({"g"}, {"g", "d"}):
            before = state(t)
            t.step()
            assert changed(before, state(t)) == expected


def test_only_what_is_said_to_be_asleep_may_lack_a_gradient() -> None:
    class Drowsy(Sleeper):
        def asleep(self, step: Step) -> Mapping[str, Collection[str]]:
            return {"g": ["1.bias"]}

    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with (
        trainer(Drowsy(Turn("g", ("g",), growing)), networks={"g": network}) as t,
        pytest.raises(TrainingError, match=r"no turn gave these parameters a gradient: g.1.weight\."),
    ):
        t.step()


def test_batch_statistics_are_the_mean_of_those_that_the_micro_batches_leave() -> None:
    def loss(batch: Batch, step: Step) -> Loss:
        return Loss(step.networks["g"](batch.images).square().mean() + step.networks["d"].weight.sum())

    norm = nn.BatchNorm1d(2)
    with trainer(
        Recorded(Turn("g", ("g",), loss)), networks={"g": norm, "d": nn.Linear(2, 1)}, micro_batch_size=4
    ) as t:
        t.step()
        shards = [t.batches.get(start, 4).images for start in (0, 4)]
    means, variances = (torch.stack([f(shard) for shard in shards]).mean(0) for f in (
        lambda x: x.mean(0), lambda x: x.var(0)
    ))  # fmt: skip
    assert norm.num_batches_tracked == 1
    assert torch.allclose(norm.running_mean, 0.1 * means) and torch.allclose(
        norm.running_var, 0.9 + 0.1 * variances
    )


def test_a_parameter_without_gradient_is_named_after_the_first_cycle() -> None:
    networks = {"g": nn.Sequential(nn.Linear(2, 2)), "d": nn.Linear(2, 1)}
    networks["g"].register_module("unused", nn.Linear(3, 3))
    networks["g"].forward = lambda x: networks["g"][0](x)  # type: ignore[index,method-assign]
    with (
        trainer(Recorded(Turn("g", ("g",), through_both)), networks=networks) as t,
        pytest.raises(
            TrainingError, match=r"no turn gave these parameters a gradient: g.unused.weight, g.unused.bias"
        ),
    ):
        t.step()


def test_a_loss_that_is_not_finite_is_reported_with_its_step_and_turn() -> None:
    def loss(batch: Batch, step: Step) -> Loss:
        return Loss(through_both(batch, step).total * (float("nan") if step.number == 2 else 1.0))

    with trainer(Recorded(Turn("g", ("g",), through_both), Turn("d", ("d",), loss))) as t:
        for _ in range(4):
            t.step()
        with pytest.raises(TrainingError, match="loss of turn 'd' is not finite at step 2"):
            t.take_logs()


def test_logs_are_means_since_they_were_last_taken() -> None:
    def loss(batch: Batch, step: Step) -> Loss:
        return Loss(through_both(batch, step).total, {"number": torch.tensor(float(step.number))})

    with trainer(Recorded(Turn("g", ("g",), loss))) as t:
        t.step(), t.step()
        assert t.take_logs()["g/number"] == 0.5
        t.step()
        assert t.take_logs()["g/number"] == 2.0


@pytest.mark.parametrize(("start", "expected"), [("init", 0.9 * 0.9 * 1.0 + 0.9 * 0.1 * 2.0 + 0.1 * 4.0),
                                                 ("first_step", 0.9 * 2.0 + 0.1 * 4.0)])  # fmt: skip
def test_ema_starts_from_the_initial_weights_or_after_the_first_step(start: str, expected: float) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    ema = EMA(network, EMAOptions(0.9, start=start))  # type: ignore[arg-type]
    for value in (2.0, 4.0):
        nn.init.constant_(network.weight, value)
        ema.update(network)
    assert float(ema.network.weight) == pytest.approx(expected)  # type: ignore[arg-type]


def test_a_ramped_ema_follows_the_first_steps() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    ema = EMA(network, EMAOptions(0.9999, ramp=True))
    nn.init.constant_(network.weight, 1.0)
    ema.update(network)
    assert float(ema.network.weight) == pytest.approx(1 - 1 / 10)  # type: ignore[arg-type]


def test_bf16_is_switched_off_inside_float32() -> None:
    types: list[torch.dtype] = []

    def loss(batch: Batch, step: Step) -> Loss:
        types.append(step.networks["g"](batch.images).dtype)
        with step.float32():
            types.append(step.networks["g"](batch.images).dtype)
        return through_both(batch, step)

    with trainer(Recorded(Turn("g", ("g",), loss)), precision="bf16") as t:
        t.step()
    assert types == [torch.bfloat16, torch.float32]


def test_a_pass_without_gradient_does_not_take_the_gradient_from_the_next_one() -> None:
    """autocast would hand the weights that it cast under no_grad to the pass that is trained."""

    def loss(batch: Batch, step: Step) -> Loss:
        with step.no_grad():
            through_both(batch, step)
        return through_both(batch, step)

    with trainer(Recorded(Turn("g", ("g",), loss)), precision="bf16") as t:
        before = state(t)
        t.step()
        assert changed(before, state(t)) == {"g"}


def test_means_that_are_kept_are_the_same_when_they_are_taken_again() -> None:
    """A checkpoint between two records pools them too."""
    with trainer(Recorded(Turn("g", ("g",), noisy))) as t:
        for _ in range(3):
            t.step()
        assert t.take_logs(keep=True) == t.take_logs()
        assert t.take_logs() == {}


@pytest.mark.parametrize(("batch", "micro", "processes", "expected"), [
    (8, None, 2, (4, 1)), (8, 2, 2, (2, 2)), (8, 2, 1, (2, 4)), (6, 6, 1, (6, 1)),
])  # fmt: skip
def test_the_global_batch_is_shared_out(
    batch: int, micro: int | None, processes: int, expected: tuple[int, int]
) -> None:
    assert share(RunOptions(batch, micro, steps=1), processes) == expected


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        RunError, match=r"batch_size 8 must be a multiple of micro_batch_size x processes = 2 x 3 = 6"
    ):
        share(RunOptions(8, steps=1), 3)


@pytest.mark.parametrize(("schedule", "rates"), [
    (Cosine(100, warmup=50), {0: 0.0, 25: 8.5355339059e-5, 50: 1e-4, 100: 0.0}),
    (Constant(warmup=5000), {0: 0.0, 1: 4e-8, 2500: 1e-4, 5000: 2e-4, 6000: 2e-4}),
    (Linear(100, floor=1e-5), {0: 2e-4, 50: 1.05e-4, 100: 1e-5, 200: 1e-5}),
    (Cosine(1800, floor=1e-5), {0: 2e-4, 900: 1.05e-4, 1800: 1e-5, 9999: 1e-5}),
    (Cosine(10, every=5), {4: 2e-4, 5: 1e-4, 9: 1e-4, 10: 0.0}),
])  # fmt: skip
def test_learning_rates_are_functions_of_the_step(schedule: Constant, rates: dict[int, float]) -> None:
    assert {step: schedule(2e-4, step) for step in rates} == pytest.approx(rates, abs=1e-12)


def test_adam_is_fused_where_torch_can() -> None:
    assert adam(nn.Linear(1, 1).parameters(), 1e-3).param_groups[0]["fused"] is True
