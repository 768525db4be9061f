"""What the toolkit adds to a bare training step and to bare sampling, with the same UNet and batch.

    python benchmarks/overhead.py [--steps 60] [--rounds 5]

Both sides run in this process, in turns, so that a change of the machine's speed hits both alike. Training:
the bare step is forward, backward and a fused AdamW step on data that is already there. Sampling: the bare
side calls the network as often as the sampler does, on a batch of noise. Prints the ratio of the medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from toolkit import plugins
from toolkit.build import build
from toolkit.data.batches import Batches
from toolkit.options import DataOptions
from toolkit.previews import Previews
from toolkit.processes import Processes
from toolkit.randomness import generators_for
from toolkit.recipe import read_layers, resolve
from toolkit.trainer import Trainer

RECIPE = """
extends = ["quickstart"]
unset = ["ema"]
[run]
batch_size = 64
"""


def bare_step(network: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """Forward, backward and fused AdamW: what no trainer can do without."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        t = torch.randint(200, (len(images),), device=images.device)
        noise = torch.randn_like(images)
        loss = (network(noise, t, return_dict=False)[0] - noise).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Median seconds of one call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="training steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ema", action="store_true", help="with an EMA on the toolkit's side")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead.toml"
        path.write_text(RECIPE.replace('unset = ["ema"]\n', "") if chosen.ema else RECIPE)
        recipe = resolve(read_layers(path), plugins.load().registry)
    processes = Processes(recipe.common(("run",)))
    built = build(recipe, processes.device)
    twin = build(recipe, processes.device).training.networks["denoiser"].model
    batches = Batches(built.source, DataOptions(), seed=0, device=processes.device)
    trainer = Trainer(built.training, batches, processes, recipe.common(("run",)))

    bare = bare_step(twin, batches.get(0, 64).images)
    for work in (bare, trainer.step):
        seconds(work, 10, processes.device)
    ours, theirs = [], []
    for _ in range(chosen.rounds):
        theirs.append(seconds(bare, chosen.steps, processes.device))
        ours.append(seconds(trainer.step, chosen.steps, processes.device))
    report("training step", ours, theirs)

    pipeline = Previews(recipe, built, recipe.registry, processes).pipeline(0, average=False)
    assert pipeline is not None
    network = pipeline.denoiser
    x, t = (
        torch.randn(64, 1, 8, 8, device=processes.device),
        torch.zeros(64, dtype=torch.int64, device=processes.device),
    )

    @torch.inference_mode()
    def calls() -> None:
        for _ in range(pipeline.calls):
            network.model(x, t, return_dict=False)

    def sample() -> None:
        pipeline.draw(generators_for(0, 0, 64, processes.device), 64)

    ours, theirs = [], []
    for _ in range(chosen.rounds):
        theirs.append(seconds(calls, 1, processes.device))
        ours.append(seconds(sample, 1, processes.device))
    report(f"sampling 64 images, {pipeline.calls} network calls", ours, theirs)
    processes.close(cleanly=True)


def report(what: str, ours: list[float], theirs: list[float]) -> None:
    ratio = statistics.median(ours) / statistics.median(theirs)
    milliseconds = [1000 * statistics.median(side) for side in (ours, theirs)]
    rounds = ", ".join(f"{a / b:.3f}" for a, b in zip(ours, theirs, strict=True))
    print(f"{what}: {milliseconds[0]:.2f} ms / {milliseconds[1]:.2f} ms = {ratio:.3f}   (rounds: {rounds})")


if __name__ == "__main__":
    main()
