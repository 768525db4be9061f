"""Averages of any width from snapshots of two (Karras et al. 2024, "post-hoc EMA").

A power-function average over t steps weights step tau by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1), its
profile. The wanted profile is approximated by the sum of snapshots' that is nearest in the square norm
over tau; the average is the same sum of the snapshots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolkit import CheckpointError, gamma_of_width
from toolkit.commands import RunError, Snapshot, nearest

LARGEST_ERROR = 0.1  # of the norm of the wanted profile; what differs by more is another average


@dataclass(frozen=True)
class Reconstruction:
    """An average of a width after a step, as a sum of snapshots.

    Attributes:
        step: of the run.
        snapshots: all those of the role up to that step.
        coefficients: of each, (n,) float64.
        error: the norm of what is left, as a share of that of the wanted profile.
    """

    step: int
    snapshots: tuple[Snapshot, ...]
    coefficients: Tensor
    error: float

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """The averaged state of a network: summed in float64, and rounded to its own types.

        What averages do not average, such as counters, is as it was after the step.

        Raises:
            CheckpointError: if a snapshot is missing, damaged or of another network.
        """
        own = network.state_dict()
        parameters = network.named_parameters(remove_duplicate=False)
        tensors = (*parameters, *network.named_buffers(remove_duplicate=False))
        averaged = {name for name, tensor in tensors if tensor.is_floating_point()} & own.keys()
        sums = {name: torch.zeros_like(own[name], dtype=torch.float64) for name in averaged}
        for snapshot, coefficient in zip(self.snapshots, self.coefficients.tolist(), strict=True):
            state = snapshot.read()
            _refuse_misfit(snapshot, own, state)
            for name, total in sums.items():
                total.add_(state[name].double(), alpha=coefficient)
        # The last snapshot is one of the step itself.
        return {**state, **{name: total.to(own[name].dtype) for name, total in sums.items()}}


def reconstruction(snapshots: Sequence[Snapshot], width: float, step: int | None = None) -> Reconstruction:
    """How an average of this relative width after a step is made of snapshots of one role.

    Args:
        snapshots: of the role.
        width: sigma_rel, in (0, sqrt(1 / 12)).
        step: one of those after which there is a snapshot; the last by default.

    Raises:
        RunError: if there is no snapshot of the step, or the snapshots cannot make such an average.
    """
    steps = sorted({snapshot.step for snapshot in snapshots})
    step = steps[-1] if step is None else step
    if step not in steps:
        hint = nearest(str(step), map(str, steps))
        raise RunError(f"--step {step}: there are snapshots of steps {listed(steps)}.{hint}")
    until = tuple(sorted((s for s in snapshots if s.step <= step), key=lambda s: (s.step, s.width)))
    widths = sorted({snapshot.width for snapshot in until})
    if len(widths) == 1 and width not in widths:
        raise RunError(
            f"--width {width}: all snapshots are of one width, {widths[0]}, and others are made of two: "
            f"train with [ema.{until[0].role}] widths = [0.05, 0.1]"
        )
    coefficients, error = solved(
        torch.tensor([snapshot.updates for snapshot in until]),
        torch.tensor([gamma_of_width(snapshot.width) for snapshot in until], dtype=torch.float64),
        until[-1].updates,
        gamma_of_width(width),
    )
    if error > LARGEST_ERROR:
        raise RunError(
            f"--width {width}: cannot be made of these {len(until)} snapshots of widths {listed(widths)}: "
            f"the nearest is another average, {error:.0%} off. Take a width nearer to these, a later "
            "--step, or keep more snapshots"
        )
    return Reconstruction(step, until, coefficients, error)


def solved(t: Tensor, gamma: Tensor, wanted_t: float, wanted_gamma: float) -> tuple[Tensor, float]:
    """The least-squares coefficients of profiles (t_i, gamma_i), and the relative norm of what is left.

    A x = b with A_ij = <p_i, p_j> and b_i = <p_i, p_wanted>, for profiles scaled to norm 1.
    """
    ts, gammas = t.double(), gamma.double()
    one = torch.tensor([wanted_t], dtype=torch.float64), torch.tensor([wanted_gamma], dtype=torch.float64)
    norms, norm = inner_product(ts, gammas, ts, gammas).sqrt(), inner_product(*one, *one).sqrt()
    products = inner_product(ts[:, None], gammas[:, None], ts, gammas) / norms[:, None] / norms
    with_wanted = inner_product(ts, gammas, *one) / norms / norm
    x = torch.linalg.solve(products, with_wanted)
    squared = 1 - 2 * x @ with_wanted + x @ products @ x
    return x * norm / norms, float(squared.clamp(min=0).sqrt())


def inner_product(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """The integral of p_a p_b: (gamma_a + 1) (gamma_b + 1) r^e / ((gamma_a + gamma_b + 1) max(t_a, t_b)).

    r = t_a / t_b, and e = gamma_b where t_a < t_b, else -gamma_a.
    """
    power = torch.where(t_a < t_b, gamma_b, -gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (t_a / t_b) ** power / torch.maximum(t_a, t_b)


def listed(values: Sequence[float]) -> str:
    """Values in a sentence; of many, the first and the last."""
    shown = [f"{value:,}" for value in values]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def _refuse_misfit(snapshot: Snapshot, own: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    strange = own.keys() ^ state.keys() or {n for n, tensor in own.items() if tensor.shape != state[n].shape}
    if strange:
        raise CheckpointError(f"{snapshot.path}: is of another network: {min(strange)!r} differs")
