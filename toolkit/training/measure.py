"""The objective's measures on held-out data."""

import torch
from torch import Tensor

from toolkit.data.batches import Batches
from toolkit.randomness import position_seed, seed_default_generators
from toolkit.training.objective import Step
from toolkit.training.processes import Processes, widest
from toolkit.training.trainer import Training


def measure(
    training: Training, batches: Batches, rows: int, micro_batch: int, seed: int, number: int,
    processes: Processes,
) -> dict[str, float]:  # fmt: skip
    """Means of every measure over the first `rows` held-out rows, as `<turn>/<name>`.

    Networks are in eval() (the next training step undoes that); averages replace them where the recipe
    has [ema.<role>]. Seeds depend on the rows alone, so all checkpoints are measured with the same noise.
    Results are the same for any number of processes.
    """
    size = min(micro_batch, rows)
    shards = rows // size
    networks = {**training.networks, **{role: ema.network for role, ema in training.ema.items()}}
    for network in networks.values():
        network.eval()
    step = Step(number, 0, processes.device, networks, networks, processes.float32, processes.no_grad)
    means: dict[str, float] = {}
    for turn in training.objective.measures():
        totals: dict[str, Tensor] = {}
        # A process without a shard computes the first one too, to learn the names, with weight 0.
        for shard in range(processes.rank, shards, processes.count) or [-1]:
            seed_default_generators(
                position_seed(seed, "measure", turn.name, max(shard, 0)), processes.device
            )
            with torch.no_grad(), processes.autocast():
                loss = turn.loss(batches.get(max(shard, 0) * size, size), step)
            for name, value in {"loss": loss.total, **loss.logs}.items():
                here = value.detach().to(processes.device, widest(processes.device)) * float(shard >= 0)
                totals[f"{turn.name}/{name}"] = (
                    totals.get(f"{turn.name}/{name}", torch.zeros_like(here)) + here
                )
        sums = torch.stack([totals[name] for name in sorted(totals)])
        processes.add_(sums)
        means |= dict(zip(sorted(totals), (sums / shards).tolist(), strict=True))
    return means
