"""The memory of a process with whole networks and with networks in parts: two CPU processes over gloo.

    for s in none fsdp; do
      torchrun --standalone --nproc_per_node 2 benchmarks/sharding.py --data CIFAR --sharding $s
    done

`ddpm_cifar` (35.7 M parameters), two steps of four images. Printed for each process: the bytes of weights,
gradients, moments and averages that lie there, and what the system counts as resident, imports included.
"""

import argparse
import ctypes
import gc
from pathlib import Path

from toolkit.data.source import FirstRows
from toolkit.devices.processes import Processes
from toolkit.recipe import read_recipe
from toolkit.training.session import Session, session


def resident() -> dict[str, float]:
    """Resident memory now and at its peak, MiB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(value.split()[0]) / 1024 for name, value in fields.items()}


def held(ready: Session) -> float:
    """Weights, gradients, moments and averages that lie in this process, MiB."""
    training = ready.built.training
    tensors = [p for ema in training.averages.values() for p in ema.network.parameters()]
    for optimizer in training.optimizers.values():
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            moments = [value for value in optimizer.state[p].values() if value.shape == p.shape]
            tensors += [p, p.grad, *moments]
    return sum(training.placement.local(t).numel() * 4 for t in tensors) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="CIFAR-10, as `datasets` reads it")
    parser.add_argument("--sharding", choices=["none", "fsdp"], default="fsdp")
    chosen = parser.parse_args()
    flags = [f"run.sharding={chosen.sharding}", f"data.path={chosen.data}", "run.device=cpu"]
    flags += ["run.batch_size=4", "run.micro_batch_size=2", "run.steps=1"]
    recipe = read_recipe("ddpm_cifar", flags)
    with (
        Processes("cpu") as processes,
        session(recipe, processes, recipe.common(("run",)), narrowed=FirstRows) as ready,
    ):
        built = resident()
        for _ in range(2):
            ready.trainer.step()
        print(
            f"process {processes.rank}, sharding {chosen.sharding}: {held(ready):.0f} MiB held; resident "
            f"{resident()['VmRSS']:.0f} MiB after two steps, at most {built['VmHWM']:.0f} while it was built",
            flush=True,
        )
        processes.barrier()


if __name__ == "__main__":
    main()
