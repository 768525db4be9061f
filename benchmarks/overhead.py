"""What the toolkit adds to a bare training step and to bare sampling, with the same UNet and batch.

    python benchmarks/overhead.py [--steps 200] [--samplings 8] [--ema]

Both sides run in this process, in turns, so that a change of the machine's speed hits both alike. Training:
the bare step is forward, backward and a fused AdamW step on data that is already there. Sampling: the bare
side calls the network as often as the sampler does, on a batch of noise.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from toolkit.data.batches import Batches, DataOptions
from toolkit.devices.processes import Processes
from toolkit.randomness import generators_for
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.build import build
from toolkit.training.result import Previews
from toolkit.training.trainer import Trainer

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


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What one call takes."""
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def compare(
    what: str, ours: Callable[[], object], bare: Callable[[], object], pairs: int, device: torch.device
) -> None:
    """Take both in turns, and print the medians and the median ratio of a pair."""
    for work in (bare, ours, bare, ours):
        seconds(work, device)
    timed = [(seconds(ours, device), seconds(bare, device)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in timed)
    a, b = (1000 * statistics.median(side) for side in zip(*timed, strict=True))
    quarter = pairs // 4
    print(
        f"{what}: {a:.1f} ms and {b:.1f} ms bare, ratio {statistics.median(ratios):.3f} "
        f"(quartiles {ratios[quarter]:.3f} and {ratios[-1 - quarter]:.3f}, {pairs} pairs)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200, help="pairs of training steps")
    parser.add_argument("--samplings", type=int, default=8, help="pairs of samplings")
    parser.add_argument("--ema", action="store_true", help="with an EMA on the toolkit's side")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead.toml"
        path.write_text(RECIPE.replace('unset = ["ema"]\n', "") if chosen.ema else RECIPE)
        recipe = resolve(read_layers(path), plugins.load().registry)
    with Processes("cpu") as processes:
        built = build(recipe, processes.device)
        twin = build(recipe, processes.device).training.networks["denoiser"].model
        batches = Batches(built.source, DataOptions(), seed=0, device=processes.device)
        trainer = Trainer(built.training, batches, processes, recipe.common(("run",)))

        device = processes.device
        bare = bare_step(twin, batches.get(0, 64).images)
        compare("training step", trainer.step, bare, chosen.steps, device)

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

        what = f"sampling 64 images by {pipeline.calls} network calls"
        compare(what, sample, calls, chosen.samplings, device)


if __name__ == "__main__":
    main()
