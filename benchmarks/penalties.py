"""What R1 adds to an update of the discriminator: exact, lazy (every 16th update) or by finite differences.

    python benchmarks/penalties.py [--rounds 3] [--recipe ddgan_digits]

The discriminator's turn of each way in turns, 16 updates a round, by processor time (on an accelerator by the
clock), relative to updates without a penalty. The mean over the 16 updates counts.
"""

import argparse
import statistics
import time

import torch

from toolkit.devices.processes import Processes
from toolkit.recipe import read_recipe
from toolkit.training.session import session

EVERY = 16
WAYS = {
    "none": ["objective.r1_gamma=0.0"],
    "exact": ["objective.r1_every=1"],
    f"exact, every {EVERY}th": [f"objective.r1_every={EVERY}"],
    "finite differences": ["objective.r1_every=1", "objective.r1_slopes=finite_differences"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="ddgan_digits", help="of the objective ddgan")
    parser.add_argument("--device", default="cpu", choices=["cpu", "auto"])
    chosen = parser.parse_args()
    trainers = {}
    with Processes(chosen.device, "float32") as processes:
        clock = time.process_time if processes.device.type == "cpu" else time.perf_counter
        for way, flags in WAYS.items():
            recipe = read_recipe(chosen.recipe, [*flags, "run.precision=float32"])
            with session(recipe, processes, recipe.common(("run",))) as ready:
                trainers[way] = ready.trainer
                ready.trainer.step()  # a whole one first, in which every network has to learn
                ready.trainer.turns = ready.trainer.turns[:1]
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(chosen.rounds + 1):
            for way, trainer in trainers.items():
                start = clock()
                for _ in range(EVERY):
                    trainer.step()
                if processes.device.type != "cpu":
                    torch.accelerator.synchronize()
                if number:  # the first round allocates
                    times[way].append((clock() - start) / EVERY)
    print("| R1 | ms an update of the discriminator | relative |")
    print("|---|---|---|")
    for way, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["none"], strict=True))
        print(f"| {way} | {1000 * statistics.median(taken):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
