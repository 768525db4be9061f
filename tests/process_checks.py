"""What test_processes.py asks of two processes that no run shows; the main one prints the answers as JSON.

torchrun --nproc_per_node 2 process_checks.py
"""

import json

import torch
from test_trainer import Points, Recorded, noisy
from torch import nn

from toolkit import Batch, Batches, Loss, Step, Turn
from toolkit.__main__ import leave
from toolkit.data.batches import DataOptions
from toolkit.devices.processes import Processes
from toolkit.errors import RunError, TrainingError
from toolkit.training.ema import EMA, EMAOptions
from toolkit.training.optimizers import Constant, OptimizerOptions, sgd
from toolkit.training.result import measure
from toolkit.training.trainer import RunOptions, Trainer, Training


class Measured(Recorded):
    def measures(self) -> tuple[Turn, ...]:
        return (Turn("noisy", (), noisy),)


def both(batch: Batch, step: Step) -> Loss:
    return noisy(batch, step)


def main() -> None:
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
        raise RunError("here")

    try:
        processes.together(refuse if processes.rank == 1 else lambda: None)
    except RunError as error:
        answers["refusal"] = str(error)
    with torch.no_grad():
        networks["g"][1].running_mean += processes.rank * 1e-7  # type: ignore[index]
    try:
        processes.must_agree(trainer.replicas())
    except TrainingError as error:
        answers["drift"] = str(error)
    if processes.is_main:
        print(json.dumps(answers))
    processes.__exit__(None)


if __name__ == "__main__":
    main()
    leave(0)
