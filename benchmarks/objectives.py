"""What importance sampling and IWDiff cost: training steps relative to DDPM's, with the same UNet and batch.

    OMP_NUM_THREADS=1 python benchmarks/objectives.py [--turns 20] [--batch 16] [--train 100]

Everything that a step of a run does is in the time: data, objective, backward passes, clipping, Adam, EMA.
First the UNet learns a little by plain `denoising`; from its weights each objective gets a trainer of its
own, and a full history of losses where it has one. Then all take a step each, in turns and in one process.
Limits are on processor time, which other programs disturb least; time on the clock is shown beside it.

The cost of `selective` hangs on A, the mean number of draws a sample that count (weight above 0.01): k passes
forward without gradient, and A with it. A is small where losses are large, so early in training and where
importance sampling draws; it grows as the network gets better, until one pass over all draws is cheaper and
is taken instead. It is printed; --train shows how it moves. Exit code 1 if a limit is broken.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import final

import torch
from torch import Tensor

from toolkit import DataSource, Registry
from toolkit.data.batches import Batches, DataOptions
from toolkit.devices.processes import Processes
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.build import build
from toolkit.training.trainer import Trainer

RECIPE = """
[run]
batch_size = 16
steps = 1
device = "cpu"
[data]
type = "smooth"
[schedule]
type = "linear"
num_train_timesteps = 1000
beta_start = 1e-4
beta_end = 0.02
[objective]
type = "denoising"
[networks.denoiser]
type = "unet"
block_out_channels = [32, 64, 64]
down_block_types = ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]
up_block_types = ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 8
attention_head_dim = "none"
init = "xavier"
[optimizers.denoiser]
type = "adam"
lr = 1e-3
clip_norm = 1.0
[ema.denoiser]
decay = 0.99
[sampler]
type = "ancestral"
"""
IMPORTANCE = 'objective.timesteps={type="second_moment"}'
EXTRA = 'objective.timesteps={type="second_moment",extra=2}'
# Name, what is set, and at most how many steps of DDPM a step may cost.
VARIANTS = (
    ("ddpm", (), None),
    ("importance", (IMPORTANCE,), 1.05),
    ("importance, +2", (EXTRA,), 1.75),
    ("iwdiff, k = 2", ('objective={type="iwdiff",k=2}',), 2.05),
    ("iwdiff, k = 2, importance", ('objective={type="iwdiff",k=2}', IMPORTANCE), 2.10),
    (
        "selective, k = 8, importance",
        ('objective={type="iwdiff",k=8,scale="sum",selective=true}', IMPORTANCE),
        4.5,
    ),
)


@final
class Smooth(DataSource):
    """Random pictures, smooth enough for a denoiser to learn something: 3 x 32 x 32, as in CIFAR-10."""

    def __init__(self) -> None:
        self.image_shape, self.num_classes = (3, 32, 32), None
        coarse = torch.rand(2048, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        fine = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")
        self._images = (fine * 255).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Tensor) -> tuple[Tensor, None]:
        return self._images[indices], None


def trainer_of(registry: Registry, batch: int, stated: tuple[str, ...]) -> Trainer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "objectives.toml"
        path.write_text(RECIPE)
        layers = read_layers(path, [f"run.batch_size={batch}", *stated])
        recipe = resolve(layers, registry)
    options = recipe.common(("run",))
    processes = Processes(options.device, options.precision)
    built = build(recipe, processes.device)
    batches = Batches(built.source, DataOptions(), seed=0, device=processes.device)
    return Trainer(built.training, batches, processes, options)


@torch.no_grad()
def losses_of_all_timesteps(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """One loss of DDPM at each timestep, ten times over: a history to begin with."""
    objective, network = trainer.training.objective, trainer.training.networks["denoiser"]
    losses = []
    for t in torch.arange(1000).split(50):
        images = trainer.batches.get(0, len(t)).images
        noise = torch.randn_like(images)
        prediction = network(objective.schedule.diffuse(images, t, noise), t)  # type: ignore[union-attr]
        losses.append(objective.loss(prediction, images, noise))  # type: ignore[operator]
    return torch.arange(1000).repeat(10), torch.cat(losses).repeat(10)


def timed_step(trainer: Trainer) -> tuple[float, float]:
    """Seconds of the processor and on the clock."""
    processor, clock = process_time(), perf_counter()
    trainer.step()
    return process_time() - processor, perf_counter() - clock


def report(
    name: str, ours: list[tuple[float, float]], ddpm: list[tuple[float, float]], limit: float | None
) -> bool:
    """Print medians over the turns; whether the limit is broken."""
    processor, clock = (sorted(a[i] / b[i] for a, b in zip(ours, ddpm, strict=True)) for i in (0, 1))
    median, quarter = statistics.median(processor), len(processor) // 4
    broken = limit is not None and median > limit
    print(
        f"{name:30}{1000 * statistics.median(step for step, _ in ours):6.0f} ms{median:8.3f}"
        f"  ({processor[quarter]:.3f}, {processor[-1 - quarter]:.3f}){statistics.median(clock):8.3f}"
        f"  {'' if limit is None else format(limit, '.2f')}{'  BROKEN' if broken else ''}"
    )
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=20, help="steps of each objective")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--train", type=int, default=100, help="steps that the network learns first")
    chosen = parser.parse_args()

    registry = plugins.load().registry.copy()
    registry.add(DataSource, "smooth", Smooth)
    trainers = {name: trainer_of(registry, chosen.batch, stated) for name, stated, _ in VARIANTS}
    network = trainers["ddpm"].training.networks["denoiser"]
    size = sum(p.numel() for p in network.parameters())
    print(f"UNet of {size:,} parameters, {chosen.batch} pictures of 3 x 32 x 32 a step, T = 1000")
    threads, cores, load = torch.get_num_threads(), os.cpu_count(), os.getloadavg()[0]
    machine = platform.processor() or platform.machine()
    print(f"{threads} thread(s) of {cores} cores ({machine}), load {load:.1f}, torch {torch.__version__}")
    for _ in range(chosen.train):
        trainers["ddpm"].step()
    loss = trainers["ddpm"].take_logs().get("denoiser/loss", float("nan"))
    t, losses = losses_of_all_timesteps(trainers["ddpm"])
    print(f"{chosen.train} steps of DDPM: mean loss {loss:.3f}, and {float(losses.mean()):.3f} at the end")
    for trainer in trainers.values():
        trainer.training.networks["denoiser"].load_state_dict(network.state_dict())
        trainer.training.objective.timesteps.observe(t, losses)  # type: ignore[union-attr,operator]

    for trainer in trainers.values():
        for _ in range(3):  # the first step of `selective` measures A, the second is the first of two passes
            trainer.step()
        trainer.take_logs()
    print(f"\n{'objective':30}{'a step':>9}{'x DDPM':>8}  (quartiles)      clock  limit")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for _ in range(chosen.turns):
        for name, trainer in trainers.items():
            times[name].append(timed_step(trainer))
    broken = any([report(name, times[name], times["ddpm"], limit) for name, _, limit in VARIANTS])
    for name, trainer in trainers.items():
        logs = trainer.take_logs()
        if "denoiser/active_draws" in logs:
            active, effective = logs["denoiser/active_draws"], logs["denoiser/effective_draws"]
            two = getattr(trainer.training.objective, "two_passes", False)
            passes = "two passes" if two else "one pass"
            print(f"{name}: A = {active:.2f}, effective draws {effective:.2f}, {passes}")
    trainers["ddpm"].processes.__exit__(None)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
