"""A run on several machines for test_nodes.py: 3 steps, resumed to 6, then scored.

torchrun --nnodes 2 --node_rank 0 --master_addr 127.0.0.1 ... node_runs.py RECIPE RUN
"""

import sys

import torch

from toolkit.__main__ import leave
from toolkit.cli import main
from toolkit.training import loop

if __name__ == "__main__":
    loop.HELD_OUT_ROWS = 16  # as in conftest.py
    torch.distributed.init_process_group("gloo")  # one group for all three: it can be formed only once
    recipe, run = sys.argv[1:]
    train = ["train", recipe, "--resume", "auto", "--set", f"run.out={run}", "--set"]
    score = ["evaluate", run, "--metrics", "sliced_wasserstein", "--num", "16"]
    for command in ([*train, "run.steps=3"], [*train, "run.steps=6"], score):
        main(command, standalone_mode=False)
    torch.distributed.destroy_process_group()
    leave(0)
