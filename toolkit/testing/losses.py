"""Checks of denoising losses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.testing.case import Case
from toolkit.testing.oracles import Shrinking
from toolkit.testing.randomness import without_draws
from toolkit.testing.requirement import close, require
from toolkit.training.objective import DenoisingLoss

ROWS = 6


@dataclass(frozen=True)
class _Rows:
    x0: Tensor
    t: Tensor
    noise: Tensor

    def of(self, loss: DenoisingLoss, denoiser: Shrinking) -> Tensor:
        x_t = denoiser.schedule.diffuse(self.x0, self.t, self.noise)
        result: Tensor = loss(denoiser(x_t, self.t), self.x0, self.noise)
        return result


def _setting(case: Case) -> tuple[DenoisingLoss, Shrinking, _Rows]:
    """The loss, a denoiser, and rows on 256 levels at timesteps from the first to the last."""
    loss, chain = case.build(), case.path()
    generator = torch.Generator().manual_seed(3)
    levels = torch.randint(256, (ROWS, *case.sample_shape), generator=generator)
    noise = torch.randn(ROWS, *case.sample_shape, generator=generator)
    t = torch.linspace(chain.grid(None, None)[-2], chain.noisiest, ROWS)
    t = t.long() if chain.discrete else t
    return loss, Shrinking(chain), _Rows(levels / 127.5 - 1, t, noise)


def check_one_value_a_row(case: Case) -> None:
    """One finite float32 a row, with a gradient for the denoiser."""
    loss, denoiser, rows = _setting(case)
    values = rows.of(loss, denoiser)
    require(
        values.shape == (ROWS,),
        f"gives shape {tuple(values.shape)} for {ROWS} rows: reduce each row, error.flatten(1).mean(1), and "
        "not the batch",
    )
    require(values.dtype == torch.float32, f"gives {values.dtype}: compute losses in float32")
    require(values.isfinite().all(), f"is not finite at t = {rows.t[~values.isfinite()].tolist()}")
    require(
        values.requires_grad, "has no gradient: do not detach the prediction, the trainer freezes networks"
    )


def check_rows_do_not_leak(case: Case) -> None:
    """A row's value depends on that row alone."""
    loss, denoiser, rows = _setting(case)
    with torch.no_grad():
        before = rows.of(loss, denoiser)
        other = _Rows(rows.x0.clone(), rows.t.clone(), rows.noise.clone())
        other.x0[0], other.t[0], other.noise[0] = -other.x0[0], other.t[ROWS // 2], 3 * other.noise[0]
        after = other.of(loss, denoiser)
    require(
        close(after[1:], before[1:], 1e-6),
        "changing row 0 changes the loss of other rows: take no statistic over dimension 0",
    )


def check_pure(case: Case) -> None:
    """The same arguments give the same values, and nothing is drawn."""
    loss, denoiser, rows = _setting(case)
    with torch.no_grad(), without_draws("the loss", "all its randomness is its arguments"):
        first, again = rows.of(loss, denoiser), rows.of(loss, denoiser)
    require(
        torch.equal(first, again),
        "the same arguments gave other values: a loss keeps nothing between calls (an objective does)",
    )


CHECKS = (check_one_value_a_row, check_rows_do_not_leak, check_pure)
