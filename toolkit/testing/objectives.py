"""Checks of objectives, by running the trainer itself on the recipe of their case."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.devices.processes import Processes
from toolkit.errors import CheckpointError, TrainingError
from toolkit.files import read_tensors, write_tensors
from toolkit.testing.case import Case
from toolkit.testing.randomness import EqualDraws, foreign_seed, without_draws
from toolkit.testing.requirement import require
from toolkit.training import checkpoint
from toolkit.training.objective import Loss, Step, Turn
from toolkit.training.result import measure
from toolkit.training.session import Session, session
from toolkit.training.trainer import RunOptions, Trainer

ROWS, MICRO = 8, 4
STEPS = 4
ROUNDING = 1e-4  # error of a gradient relative to its norm, when rows are summed in another order


@contextmanager
def _run(case: Case) -> Iterator[Session]:
    """A small run of the case's recipe, not begun."""
    recipe = case.read_recipe(ROWS, MICRO, STEPS)
    options: RunOptions = recipe.common(("run",))
    with (
        Processes(options.device, options.precision) as processes,
        session(recipe, processes, options) as ready,
    ):
        yield ready


def _trained(run: Session, steps: int = STEPS) -> Trainer:
    for _ in range(steps):
        run.trainer.step()
    return run.trainer


def _step(run: Session, rows: range = range(ROWS)) -> Step:
    """A step for calling turns without the trainer, on these rows of the global batch."""
    networks, processes = run.built.training.networks, run.processes
    contexts = processes.float32, processes.no_grad
    return Step(0, 0, processes.device, networks, networks, *contexts, rows=rows, total=ROWS)


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    """All weights and buffers that training changes: networks and averages."""
    training = trainer.training
    modules = {**training.networks, **{f"ema/{name}": e.network for name, e in training.averages.items()}}
    return {f"{r}.{k}": v.clone() for r, module in modules.items() for k, v in module.state_dict().items()}


def _differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    return [name for name in a if not torch.equal(a[name], b[name])]


def check_finite(case: Case) -> None:
    """Losses, logs, measures and weights are finite, and every trained parameter has a gradient."""
    with _run(case) as run:
        try:
            trainer = _trained(run)
            logs = trainer.take_logs()
            trainer.check_weights()
        except TrainingError as error:
            require(False, str(error))
        bad = [name for name, value in logs.items() if not torch.tensor(value).isfinite()]
        require(not bad, f"logs {', '.join(bad)}, which are not finite")
        if run.built.training.objective.measures():
            values = measure(
                run.built.training, run.batches, ROWS, MICRO, run.trainer.options.seed, STEPS, run.processes
            )
            bad = [name for name, value in values.items() if not torch.tensor(value).isfinite()]
            require(not bad, f"measures {', '.join(bad)}, which are not finite")


def check_seed_stable(case: Case) -> None:
    """Two runs with the same seeds end at the same bits."""
    ends = []
    for _ in range(2):
        with foreign_seed(0), _run(case) as run:
            ends.append(_weights(_trained(run)))
    different = _differ(*ends)
    require(
        not different,
        f"two runs of the same seed end at different weights ({different[:1]}): draw by torch's own "
        "functions without a generator, and keep nothing on the class or module",
    )


def check_draws_from_torch_alone(case: Case) -> None:
    """Neither numpy's nor Python's random numbers decide anything."""
    ends = []
    help = "draw by torch's own functions (torch.randn_like), whose generators the trainer seeds every step"
    for seed in (1, 2):
        with foreign_seed(seed), _run(case) as run:
            trainer = run.trainer
            with without_draws("a step", help, torchs=False):
                for _ in range(STEPS):
                    trainer.step()
            ends.append(_weights(trainer))
    require(not _differ(*ends), f"other seeds of numpy and Python gave other weights: {help}")


def check_turns_train_their_own_networks(case: Case) -> None:
    """A turn's loss has gradients for the networks that it trains, and leaves all others alone."""
    with _run(case) as run:
        objective = run.built.training.objective
        networks, trained = run.built.training.networks, run.built.training.optimizers
        step = _step(run)
        asleep = objective.asleep(step)
        wanted = {  # of a trained network what its author left free; of others all, which the trainer froze
            role: [
                p for name, p in network.named_parameters()
                if (p.requires_grad or role not in trained) and name not in asleep.get(role, ())
            ]
            for role, network in networks.items()
        }  # fmt: skip
        for role, names in asleep.items():
            for name in names:
                networks[role].get_parameter(name).requires_grad_(False)
        for turn in objective.turns():
            for role, parameters in wanted.items():
                networks[role].train()
                for p in parameters:
                    p.requires_grad_(role in turn.trains)
                    p.grad = None
            before = {role: [p.detach().clone() for p in result] for role, result in wanted.items()}
            _backward(turn.loss(run.batches.get(0, ROWS), step))
            for role, parameters in wanted.items():
                _require_own(turn, role, parameters, before[role])


def _require_own(turn: Turn, role: str, parameters: list[nn.Parameter], before: list[Tensor]) -> None:
    same = all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    require(same, f"turn {turn.name!r} changes the weights of {role!r} itself: the trainer takes the steps")
    if role in turn.trains:
        require(
            not parameters or any(p.grad is not None for p in parameters),
            f"turn {turn.name!r} trains {role!r}, but its loss has no gradient there: do not detach it, and "
            "use it outside no_grad",
        )
        return
    require(
        not any(p.requires_grad or p.grad is not None for p in parameters),
        f"turn {turn.name!r} does not train {role!r}, but un-freezes it or gives it a gradient: leave "
        "requires_grad_ and backward to the trainer",
    )


def _backward(loss: Loss) -> None:
    if loss.total.requires_grad:  # else the turn has called step.backward itself
        loss.total.backward()


def check_micro_batches(case: Case) -> None:
    """A batch in two halves has the loss, the gradient and the records of the whole.

    Every row draws the same here, so that no row gets other noise when the batch is cut differently.
    """
    with _run(case) as run:
        for turn in run.built.training.objective.turns():
            whole, halves = (_taken(run, turn, size) for size in (ROWS, ROWS // 2))
            for name, expected in whole.items():
                error = float((halves[name] - expected).norm() / expected.norm().clamp(min=1e-6))
                require(
                    error <= ROUNDING,
                    f"{name} of turn {turn.name!r} is off by {error:.1e} when the batch of {ROWS} rows is "
                    "computed in two halves: a loss must be a mean over rows, without statistics over them. "
                    "If that is meant (batch normalisation), the case declares why",
                )


def _taken(run: Session, turn: Turn, size: int) -> dict[str, Tensor]:
    """The loss, gradients by role and records of the first ROWS rows, in micro-batches of `size`."""
    networks = run.built.training.networks
    parameters = {role: list(networks[role].parameters()) for role in turn.trains}
    for role, network in networks.items():
        network.requires_grad_(role in turn.trains).zero_grad(set_to_none=True)
    losses = []
    with EqualDraws():
        for start in range(0, ROWS, size):
            loss = turn.loss(run.batches.get(start, size), _step(run, range(start, start + size)))
            _backward(loss)
            losses.append(loss)
    result = {"the loss": torch.stack([loss.total.detach() for loss in losses]).mean()}
    for role, held in parameters.items():
        grads = [p.grad.flatten() for p in held if p.grad is not None]
        if grads:
            result[f"the gradient of {role!r}"] = torch.cat(grads).clone() * size / ROWS
    for name in losses[0].records:
        rows = torch.cat([loss.records[name].detach() for loss in losses])
        result[f"the record {name!r}"] = rows.double()
    return result


def check_state_round_trips(case: Case) -> None:
    """The objective's state can be saved to a file and loaded into a new one."""
    with _run(case) as run, tempfile.TemporaryDirectory() as folder:
        learned = _trained(run).training.objective.state_dict()
        path = Path(folder) / "objective.safetensors"
        write_tensors(path, learned)
        with _run(case) as other:
            fresh = other.built.training.objective
            try:
                fresh.load_state_dict(read_tensors(path))
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                require(False, f"its state does not load into a new one ({reason}): register buffers at once")
            loaded = fresh.state_dict()
    different = [
        name for name in learned if not torch.equal(learned[name].nan_to_num(), loaded[name].nan_to_num())
    ]
    require(not different, f"the buffers {different[:3]} are others after loading: do not change them there")


def check_exact_resume(case: Case) -> None:
    """A run resumed from a checkpoint ends at the same bits as one that was never stopped."""
    with foreign_seed(0), _run(case) as run:
        whole = _weights(_trained(run))
    half = STEPS // 2
    with foreign_seed(0), tempfile.TemporaryDirectory() as folder:
        with _run(case) as run:
            path = checkpoint.save(Path(folder), checkpoint.state_of(_trained(run, half).training, half), {})
        with _run(case) as run:
            trainer = run.trainer
            try:
                trainer.number = checkpoint.load(path, trainer.training, {})
            except CheckpointError as error:
                require(False, f"its own checkpoint does not load: {error}. Register buffers at once")
            for _ in range(half, STEPS):
                trainer.step()
            resumed = _weights(trainer)
    different = _differ(whole, resumed)
    require(
        not different,
        f"a resumed run ends at other weights ({different[:1]}): state that steps depend on must be a buffer "
        "of the objective, and draws come from torch's own generators, which are seeded by position",
    )


CHECKS = (
    check_finite, check_seed_stable, check_draws_from_torch_alone, check_turns_train_their_own_networks,
    check_micro_batches, check_state_round_trips, check_exact_resume,
)  # fmt: skip
