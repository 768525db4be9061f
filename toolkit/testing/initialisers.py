"""What every initialiser keeps."""

import torch
from torch import Tensor

from toolkit.initialiser import Initialiser
from toolkit.sampler import below
from toolkit.testing.case import Case
from toolkit.testing.randomness import row_generators, without_draws
from toolkit.testing.requirement import close, require

ROWS = 4
CPU = torch.device("cpu")


@torch.no_grad()
def _draw(case: Case, initialiser: Initialiser, rows: range, timestep: int) -> Tensor:
    shape = (len(rows), *case.sample_shape)
    return initialiser.draw(shape, row_generators(len(rows), first=rows[0]), timestep, CPU)


def _first(case: Case, initialiser: Initialiser) -> int:
    """The timestep at which a sampler of the whole chain begins; -1 if it has nothing to do."""
    kept = below(case.chain().timesteps, initialiser.start)
    return kept[0] if kept else -1


def check_start(case: Case) -> None:
    """`start` is on the chain: 0 for its clean end, T for noise."""
    initialiser: Initialiser = case.build()
    total = case.chain().num_train_timesteps
    require(
        type(initialiser.start) is int and 0 <= initialiser.start <= total,
        f"start is {initialiser.start!r}: it must be a whole number from 0 to T = {total}",
    )
    require(initialiser.calls >= 0, f"calls is {initialiser.calls}: it counts the network calls of draw()")


def check_draw(case: Case) -> None:
    """x_t is finite float32 of the shape that was asked for; at timestep -1 it is an x_0."""
    initialiser: Initialiser = case.build()
    for timestep in (_first(case, initialiser), -1):
        x = _draw(case, initialiser, range(ROWS), timestep)
        wanted = (ROWS, *case.sample_shape)
        require(x.shape == wanted, f"draw gives shape {tuple(x.shape)} at t = {timestep}, not {wanted}")
        require(x.dtype == torch.float32, f"draw gives {x.dtype} at t = {timestep}: it must be float32")
        require(x.isfinite().all(), f"draw gives values at t = {timestep} that are not finite")


def check_rows_follow_their_generators(case: Case) -> None:
    """Row i depends on generators[i] alone, and comes again for the same one."""
    initialiser: Initialiser = case.build()
    timestep = _first(case, initialiser)
    with without_draws("draw", "given generators, draw row i from generators[i]: toolkit.randn"):
        together = _draw(case, initialiser, range(ROWS), timestep)
    alone = torch.cat([_draw(case, initialiser, range(i, i + 1), timestep) for i in range(ROWS)])
    require(
        close(alone, together),
        "a row drawn alone is another than in its batch: draw row i from generators[i] (toolkit.randn)",
    )


CHECKS = (check_start, check_draw, check_rows_follow_their_generators)
