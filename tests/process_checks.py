"""What test_processes.py asks of processes that no run shows."""

from collections.abc import Callable
from functools import partial

import torch
from test_trainer import Points, Recorded, noisy
from torch import nn

from toolkit import Batch, Batches, Loss, Step, Turn
from toolkit.data.batches import DataOptions
from toolkit.devices.processes import Processes
from toolkit.errors import RunError, ToolkitError
from toolkit.recipe import read_recipe
from toolkit.training.ema import EMA, EMAOptions
from toolkit.training.fit import fits_on_all
from toolkit.training.optimizers import Constant, OptimizerOptions, sgd
from toolkit.training.result import measure
from toolkit.training.trainer import RunOptions, Trainer, Training


class Measured(Recorded):
    def measures(self) -> tuple[Turn, ...]:
        return (Turn("noisy", (), noisy),)


def both(batch: Batch, step: Step) -> Loss:
    return noisy(batch, step)


def complaint(work: Callable[[], object]) -> str:
    """The error in this process's way."""
    try:
        work()
    except (ToolkitError, ZeroDivisionError) as error:
        return str(error)
    return ""


def answered() -> dict[str, object]:
    """The answers of this process, by name."""
    options = RunOptions(8, micro_batch_size=2, steps=1)
    processes = Processes(options.device, options.precision)
    torch.manual_seed(processes.rank)  # whoever initialises by chance has other weights everywhere
    networks: dict[str, nn.Module] = {
        "g": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        "d": nn.utils.parametrizations.spectral_norm(nn.Linear(2, 1)),
    }
    objective = Measured(Turn("both", ("g", "d"), both))
    optimizers = {role: sgd(network.parameters(), 0.1) for role, network in networks.items()}
    averages = {"g": EMA(networks["g"], EMAOptions(0.9))}
    given = dict.fromkeys(networks, OptimizerOptions(Constant()))
    training = Training(objective, networks, optimizers, given, averages)
    batches = Batches(Points(), DataOptions(), seed=0, device=processes.device)
    trainer = Trainer(training, batches, processes, options)
    answers: dict[str, object] = {}

    processes.must_agree(trainer.replicas())
    trainer.step()
    processes.must_agree(trainer.replicas())
    buffers = {name: b for network in networks.values() for name, b in network.named_buffers()}
    answers["buffers"] = {name: buffer.tolist() for name, buffer in buffers.items()}
    answers["loss"] = trainer.take_logs()["both/loss"]
    answers["records"] = objective.observed[0][1]["x"].tolist()
    answers["measures"] = measure(training, batches, 16, 2, 0, 1, processes)

    def refuse() -> None:
        if processes.rank == 1:
            raise RunError("here")

    elsewhere = ["data.type=folder", "data.path=nowhere"] if processes.rank == 1 else []
    recipe = read_recipe("quickstart", elsewhere)
    trial = partial(fits_on_all, recipe, recipe.common(("run",)), processes, 2)
    answers["refusal"] = complaint(lambda: processes.together(refuse))
    answers["bug"] = complaint(lambda: processes.together(lambda: 1 / (1 - processes.rank)))
    answers["trial"] = complaint(trial)
    with torch.no_grad():
        networks["g"][1].running_mean += processes.rank * 1e-7  # type: ignore[index]
    answers["drift"] = complaint(lambda: processes.must_agree(trainer.replicas()))
    processes.__exit__(None)
    return answers
