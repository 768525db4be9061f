"""IWDiff: several noises a sample, the worse ones weighted up (thesis, algorithm 3).

loss_b = sum_i w_i l_i,   w = softmax_i(sign * scale * l_i),   l_i = l(x_0, t, noise_i),   i = 1..k
"""

from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import (
    Batch,
    Chain,
    Default,
    Denoiser,
    DenoisingLoss,
    Loss,
    Objective,
    RecipeError,
    Records,
    Step,
    TimestepSampler,
    Turn,
)
from toolkit_iwdiff.draws import Draws
from toolkit_iwdiff.weights import DrawWeights

BACKWARD = 3  # what a row costs forward and backward, in forward passes; 3.5 was measured on a CPU
MEMORY = 0.95  # of the running mean of active draws


@dataclass(frozen=True)
class Outcome:
    """Without gradient, which has been taken: the loss of each sample (B,) and its draws' weights (B, k).

    `total` is the weighted mean that was differentiated.
    """

    total: Tensor
    losses: Tensor
    weights: Tensor


@final
class IWDiff(Objective):
    """Trains a denoiser on k noises a sample, weighted by a softmax over their losses (thesis, algorithm 3).

    Plus sign and detached weights: gradient descent on the log-mean-exp of the losses, which grows with k.
    Minus sign with scale = "vlb": the importance-weighted bound of IWAE (Burda et al. 2016), which shrinks.
    What is minimised stays on the scale of a mean over pixels whatever the weights' scale, or gradient
    clipping would act on every step. At k = 1 this is the objective `denoising`, bit for bit.

    Memory does not grow with k: samples are taken in chunks whose rows are no more than the samples of the
    micro-batch (or the k rows of one sample), and each chunk is differentiated at once.

    With `selective`, a pass without gradient over all draws finds the weights, then only draws that count
    (weight above `threshold`) are passed again with gradient. What is dropped weighs at most (k - 1) *
    threshold a sample. It is done in steps where it pays: with A draws a sample above the threshold, it costs
    k + 3 A forward passes instead of 3 k. A is measured as training goes. With scale = "mean", A is k, and it
    never pays. Dropout draws other masks in the second pass: a legitimate estimate, but not that of one pass.

    Args:
        k: draws of noise a sample.
        sign: +1 stresses the worst draws, -1 the easiest.
        scale: of the losses in the softmax: "mean" over the d dimensions, as the thesis computed it (its
            weights are 1/k to three decimals), "sum" over them, as it is printed, "vlb", the sum times the
            coefficient of the variational bound, or a number that multiplies the sum.
        detach: whether weights count as constants; if not, the literal derivative is taken, which may push
            the smaller losses up.
        weights: "uniform" is the control: 1/k each, whatever sign and scale say.
        selective: look for the draws that count before passing them with gradient, where that is cheaper.
        threshold: the weight above which a draw counts.
        timesteps: which timesteps a step looks at; they learn from the loss of a sample.
        loss: what is minimised at a timestep.

    Raises:
        ValueError: for `selective` with weights that are not detached or uniform, or with a threshold that
            may drop all draws of a sample.
    """

    roles = {"denoiser": Denoiser}
    samples = "denoiser"
    active: Tensor

    def __init__(
        self,
        schedule: Chain,
        sample_shape: tuple[int, ...],
        timesteps: Annotated[TimestepSampler, Default("uniform")],
        loss: Annotated[DenoisingLoss, Default("squared_error")],
        k: Annotated[int, Field(ge=1)] = 2,
        sign: Literal[1, -1] = 1,
        scale: Literal["mean", "sum", "vlb"] | Annotated[float, Field(gt=0)] = "mean",
        detach: bool = True,
        weights: Literal["softmax", "uniform"] = "softmax",
        selective: bool = False,
        threshold: Annotated[float, Field(ge=0, lt=1)] = 0.01,
    ) -> None:
        super().__init__()
        if selective and weights == "uniform":
            raise ValueError('selective = true finds nothing to leave out with weights = "uniform"')
        if selective and not detach:
            raise ValueError("selective = true needs detach = true: else every draw has a gradient")
        if selective and threshold >= 1 / k:
            raise ValueError(
                f"selective = true with threshold {threshold:g} may drop every draw of a sample: "
                f"it must be below 1 / k = {1 / k:g}"
            )
        self.schedule, self.timesteps, self.loss = schedule, timesteps, loss
        self.k, self.detach, self.selective, self.threshold = k, detach, selective, threshold
        softmax = weights == "softmax"
        self.weights = DrawWeights(schedule, prod(sample_shape), sign, scale if softmax else 0.0)
        # Running mean of draws above the threshold a sample; NaN until the first step has been seen.
        self.register_buffer("active", torch.tensor(torch.nan, dtype=torch.float64), persistent=selective)

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=("denoiser",), loss=self._train),)

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=(), loss=self._measure),)

    def refuse_sharding(self) -> None:
        """With `selective` each process passes through the network as often as its own draws ask for."""
        if self.selective:
            raise RecipeError("[objective] selective = true does not go with run.sharding: set it to false")

    def observe(self, turn: str, records: Records) -> None:
        if "active" in records:
            now = records["active"].double().mean()
            mean = MEMORY * self.active + (1 - MEMORY) * now
            self.active.copy_(torch.where(self.active.isnan(), now, mean))
        self.timesteps.observe_records(records)

    @property
    def two_passes(self) -> bool:
        """Whether the next step looks for the draws that count first, as that is expected to be cheaper."""
        return self.selective and self.k + BACKWARD * float(self.active) < BACKWARD * self.k

    def _train(self, batch: Batch, step: Step) -> Loss:
        def again(t: Tensor) -> Tensor:
            losses, weights = self._survey(Draws.of(self.schedule, batch, t, self.k), step)
            return (weights * losses).sum(1)

        rows = step.rows or range(len(batch.images))
        t, weight = self.timesteps.draw_rows(rows, step.total or len(rows), step.device)
        draws = Draws.of(self.schedule, batch, t, self.k)
        outcome = (self._selected if self.two_passes else self._all)(draws, weight, step)
        active = (outcome.weights > self.threshold).sum(1)
        logs = {
            "active_draws": active.float().mean(),
            "effective_draws": (1 / outcome.weights.square().sum(1)).mean(),  # 1 to k
        }
        if self.timesteps.learns:
            logs["unweighted"] = outcome.losses.mean()
        records = self.timesteps.records(t, outcome.losses, again)
        if self.selective:
            records["active"] = active
        return Loss(outcome.total, logs, records)

    def _all(self, draws: Draws, weight: Tensor, step: Step) -> Outcome:
        """Differentiate all draws of all samples."""
        totals, losses, weights = [], [], []
        for samples, rows in draws.chunks():
            each = draws.losses(self.loss, step.networks["denoiser"], rows).view(-1, self.k)
            w = self.weights(each.detach() if self.detach else each, draws.t[samples])
            of_sample = (w * each).sum(1)
            part = (weight[samples] * of_sample).sum() / len(weight)
            step.backward(part)
            totals.append(part.detach())
            losses.append(of_sample.detach())
            weights.append(w.detach())
        return Outcome(torch.stack(totals).sum(), torch.cat(losses), torch.cat(weights))

    def _selected(self, draws: Draws, weight: Tensor, step: Step) -> Outcome:
        """Differentiate the draws whose weight is above the threshold."""
        losses, weights = self._survey(draws, step)
        factor = (weight[:, None] * weights).flatten() / len(weight)
        totals = []
        active = ~(weights.flatten() <= self.threshold)  # what is not a number too, so that it is reported
        for rows in active.nonzero().flatten().split(len(weight)):
            part = (factor[rows] * draws.losses(self.loss, step.networks["denoiser"], rows)).sum()
            step.backward(part)
            totals.append(part.detach())
        return Outcome(torch.stack(totals).sum(), (weights * losses).sum(1), weights)

    def _survey(self, draws: Draws, step: Step) -> tuple[Tensor, Tensor]:
        """The losses of all draws and their weights, (B, k) each, without gradient."""
        with step.no_grad():
            denoiser = step.networks["denoiser"]
            losses = torch.cat([draws.losses(self.loss, denoiser, rows) for _, rows in draws.chunks()])
        losses = losses.view(-1, self.k)
        return losses, self.weights(losses, draws.t)

    def _measure(self, batch: Batch, step: Step) -> Loss:
        # One draw at uniform timesteps, as the objective `denoising` measures it: runs can be compared.
        kept = self.schedule.timesteps.to(step.device)
        t = kept[torch.randint(len(kept), (len(batch.images),), device=step.device)]
        rows = torch.arange(len(t), device=step.device)
        return Loss(
            Draws.of(self.schedule, batch, t, 1).losses(self.loss, step.networks["denoiser"], rows).mean()
        )
