"""How much faster 4 network calls of DDGAN are than 1000 of DDPM, with UNets of the same size.

    python benchmarks/ddgan_sampling.py [--side 32] [--channels 32 64 64] [--batch 4] [--rounds 3]

Both networks are a stock UNet2DModel with fresh weights, which cost as much as trained ones; DDGAN's has an
embedding of z besides. Nothing is extrapolated: each round draws one batch with all 1000 calls, and before
and after it batches of 4 calls, so that a change of the machine's speed hits both alike.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from toolkit import Pipeline
from toolkit.pipeline.folder import Saved
from toolkit.randomness import generators_for
from toolkit.registry import load as plugins

AROUND = 10  # batches of DDGAN before, and after, one of DDPM


def pipeline(schedule: dict[str, Any], network: dict[str, Any], shape: tuple[int, ...]) -> Pipeline:
    tables = {
        "schedule": schedule,
        "network": network,
        "sampler": {"type": "ancestral"},
        "start": {"type": "noise"},
    }
    return Pipeline.from_saved(
        Saved(sample_shape=shape, num_classes=None, **tables), plugins.load().registry, "here"
    )


def seconds(drawn_by: Pipeline, batch: int) -> float:
    """Seconds of one batch."""
    generators = generators_for(0, 0, batch, drawn_by.device)
    start = time.perf_counter()
    drawn_by.draw(generators, batch)
    if drawn_by.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--image-channels", type=int, default=1)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 64], help="of the UNets' levels")
    parser.add_argument("--layers", type=int, default=1, help="residual blocks of a level")
    parser.add_argument("--batch", type=int, default=4, help="images at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()

    levels = len(chosen.channels)
    unet = {
        "block_out_channels": chosen.channels,
        "down_block_types": ["DownBlock2D"] * levels,
        "up_block_types": ["UpBlock2D"] * levels,
        "layers_per_block": chosen.layers,
        "norm_num_groups": 8,
    }
    shape = (chosen.image_channels, chosen.side, chosen.side)
    light = {"type": "ddgan_light_generator", **unet}
    linear = {"type": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    ddgan = pipeline({"type": "vp_sde", "num_train_timesteps": 4}, light, shape).to(chosen.device)
    ddpm = pipeline(linear, {"type": "unet", **unet}, shape).to(chosen.device)
    for _ in range(AROUND):
        seconds(ddgan, chosen.batch)

    ours, theirs = [], []
    for _ in range(chosen.rounds):
        short = [seconds(ddgan, chosen.batch) for _ in range(AROUND)]
        theirs.append(seconds(ddpm, chosen.batch))
        short += [seconds(ddgan, chosen.batch) for _ in range(AROUND)]
        ours.append(statistics.median(short))
    for name, drawn_by, taken in (("DDGAN", ddgan, ours), ("DDPM", ddpm, theirs)):
        size = sum(p.numel() for p in drawn_by.denoiser.parameters())
        median = statistics.median(taken)
        print(
            f"{name:5} {size:,} parameters, {drawn_by.calls} network calls: {chosen.batch} images in "
            f"{median:.4g} s, {chosen.batch / median:.3g} images/s"
        )
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    rounds = ", ".join(f"{ratio:.0f}" for ratio in ratios)
    print(f"DDGAN is {statistics.median(ratios):.0f} times as fast (rounds: {rounds})")


if __name__ == "__main__":
    main()
