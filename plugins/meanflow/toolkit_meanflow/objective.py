"""The objective of mean flows."""

from collections.abc import Callable
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit import (
    Batch,
    Continuous,
    Default,
    Denoiser,
    DenoisingObjective,
    RecipeError,
    Step,
    TimestepSampler,
)


@final
class MeanFlow(DenoisingObjective):
    """Learns the mean flow u over the way from t down to s on a straight path (Geng et al. 2025).

        (t - s) u(x_t, s, t) = integral of v from s to t,   so that   u = v - (t - s) du/dt

    along the path: du/dt is the Jacobian of u times (v, 0, 1) for (x, s, t). Minimised is
    w |u - stop-gradient(v - (t - s) du/dt)|^2 with v = noise - x_0 and w = 1 / (|error|^2 + c)^p, without
    gradient. Where s = t it is flow matching. u is the `flow` of the denoiser's prediction, and one plain
    step leads from x_t to x_s: `ddim` with num_inference_steps = 1.

    The held-out measure is the squared error without the weight, the mean over a row.

    Args:
        timesteps: draws t; where a way is learned a second time too, and the earlier of both is s.
        slope_share: the share of rows with s = t, spread evenly over the batch.
        derivative: how du/dt is computed. "exact" by forward-mode differentiation, in which attention runs
            unfused; networks with operations that have no forward mode need "difference",
            [u(x + h v, s, t + h) - u(x - h v, s, t - h)] / 2h in float32.
        h: of that difference.
        power: p; 0 for no weights.
        c: keeps the weight finite.
        label_dropout: the share of labels, in [0, 1), replaced by the null class in training.

    Raises:
        ValueError: for a path that is not straight; for timesteps that learn, or that depend on the row.
    """

    def __init__(
        self,
        schedule: Continuous,
        timesteps: Annotated[TimestepSampler, Default("logit_normal")],
        num_classes: int | None,
        slope_share: Annotated[float, Field(ge=0, le=1)] = 0.75,
        derivative: Literal["exact", "difference"] = "exact",
        h: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
        power: Annotated[float, Field(ge=0)] = 1.0,
        c: Annotated[float, Field(gt=0)] = 1e-3,
        label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(schedule, timesteps, num_classes, label_dropout)
        _refuse_unless_straight(schedule)
        if timesteps.learns or type(timesteps).draw_rows is not TimestepSampler.draw_rows:
            raise ValueError(
                "meanflow draws two independent times a row: timesteps that learn from one, or that follow "
                "the order of rows as stratified ones do, do not fit"
            )
        self.slope_share, self.derivative, self.h, self.power, self.c = slope_share, derivative, h, power, c

    def losses(self, batch: Batch, t: Tensor, step: Step) -> Tensor:
        denoiser: Denoiser = step.networks["denoiser"]
        if not denoiser.flow_map:
            raise RecipeError(
                "[networks.denoiser] does not read s, the time to which a step leads, which meanflow trains: "
                'take one that does, such as "flow_map_mlp", or "dit" with flow_map = true'
            )
        x0, noise, label = batch.images, torch.randn_like(batch.images), batch.labels
        rows = self._ways(step.rows or range(len(x0)), t.device)
        s, t = self._times(t, rows)
        x_t, v = self.schedule.diffuse(x0, t, noise), noise - x0
        u, target = denoiser(x_t, t, s=s, label=label).flow, v
        if len(rows):
            way = (t - s)[rows].view(-1, *[1] * (x0.ndim - 1))

            def mean_flow(x: Tensor, t: Tensor) -> Tensor:
                flow: Tensor = denoiser(x, t, s=s[rows], label=None if label is None else label[rows]).flow
                return flow

            slope = self._derivative(mean_flow, x_t[rows], t[rows], v[rows], step)
            target = v.index_add(0, rows, way * slope, alpha=-1)
        error: Tensor = (u - target).square().flatten(1)
        if step.rows is None:  # a measure: with p = 1 the weighted error is nearly 1 whatever is learned
            return error.mean(1)
        squared = error.sum(1)
        weight: Tensor = (squared.detach() + self.c) ** -self.power
        return weight * squared

    def _ways(self, rows: range, device: torch.device) -> Tensor:
        """Which of these rows of the global batch learn a way, int64: all but an evenly spread share.

        Numbers of rows that depend on nothing drawn keep the shapes of all steps the same.
        """
        share = self.slope_share
        chosen = [i for i, row in enumerate(rows) if int((row + 1) * share) == int(row * share)]
        return torch.tensor(chosen, dtype=torch.int64, device=device)

    def _times(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """s and t, (B,) each: of `rows` the earlier and the later of t and another, of the others both t."""
        other = self.timesteps.draw(len(t), t.device)[0]
        earlier, later = torch.minimum(t, other)[rows], torch.maximum(t, other)[rows]
        return t.index_copy(0, rows, earlier), t.index_copy(0, rows, later)

    def _derivative(
        self, u: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, v: Tensor, step: Step
    ) -> Tensor:
        """du/dt along (v, 1) in (x, t), without gradient."""
        if self.derivative == "exact":
            return _exact(u, x, t, v, step)
        h, devices = self.h, [x.device] if x.device.type == "cuda" else []
        with step.no_grad(), step.float32():  # bf16 would leave nothing of a difference
            with torch.random.fork_rng(devices):
                after = u(x + h * v, t + h)
            before = u(x - h * v, t - h)  # with the same dropout
        return (after - before) / (2 * h)


def _exact(u: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, v: Tensor, step: Step) -> Tensor:
    try:
        with step.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            slope: Tensor = torch.func.jvp(u, (x, t), (v, torch.ones_like(t)))[1]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RecipeError(
            f'objective.derivative = "exact" is not possible with [networks.denoiser], which torch cannot '
            f'differentiate in forward mode ({reason}): set it to "difference"'
        ) from error
    return slope


def _refuse_unless_straight(schedule: Continuous) -> None:
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64, device="cpu")
    if not (torch.equal(schedule.alpha(t), 1 - t) and torch.equal(schedule.sigma(t), t)):
        raise ValueError('meanflow is for straight paths, x_t = (1 - t) x_0 + t noise: "rectified_flow"')
