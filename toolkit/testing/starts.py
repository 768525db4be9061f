"""Checks of starts."""

import torch
from torch import Tensor

from toolkit.diffusion.start import Start
from toolkit.testing.case import Case
from toolkit.testing.randomness import row_generators, without_draws
from toolkit.testing.requirement import close, require

ROWS = 4
CPU = torch.device("cpu")


@torch.no_grad()
def _draw(case: Case, start: Start, rows: range, t: float) -> Tensor:
    shape = (len(rows), *case.sample_shape)
    return start.draw(shape, row_generators(len(rows), first=rows[0]), t, CPU)


def _first(case: Case, start: Start) -> float:
    """The time at which a walk over the whole path begins; `clean` if there is no step to take."""
    path = case.path()
    return next((t for t in path.grid(None, None) if t <= start.time), path.clean)


def check_start(case: Case) -> None:
    """`time` is on the path: `clean` for data, `noisiest` for noise."""
    start: Start = case.build()
    path = case.path()
    require(
        path.clean <= start.time <= path.noisiest,
        f"time is {start.time!r}: it must be on the path, from {path.clean} to {path.noisiest}",
    )
    require(start.calls >= 0, f"calls is {start.calls}: it counts the network calls of draw()")


def check_draw(case: Case) -> None:
    """x_t is finite float32 of the requested shape, at the first time and at `clean`."""
    start: Start = case.build()
    for t in (_first(case, start), case.path().clean):
        x = _draw(case, start, range(ROWS), t)
        wanted = (ROWS, *case.sample_shape)
        require(x.shape == wanted, f"draw gives shape {tuple(x.shape)} at t = {t}, not {wanted}")
        require(x.dtype == torch.float32, f"draw gives {x.dtype} at t = {t}: it must be float32")
        require(x.isfinite().all(), f"draw gives values at t = {t} that are not finite")


def check_rows_follow_their_generators(case: Case) -> None:
    """Row i depends on generators[i] alone, and is the same again for an equal generator."""
    start: Start = case.build()
    t = _first(case, start)
    with without_draws("draw", "given generators, draw row i from generators[i]: toolkit.randn"):
        together = _draw(case, start, range(ROWS), t)
    alone = torch.cat([_draw(case, start, range(i, i + 1), t) for i in range(ROWS)])
    require(
        close(alone, together),
        "a row drawn alone differs from its row in a batch: draw row i from generators[i] (toolkit.randn)",
    )


CHECKS = (check_start, check_draw, check_rows_follow_their_generators)
