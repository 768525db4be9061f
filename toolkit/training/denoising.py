"""The objective of one denoiser, and the squared error that most methods minimise."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit.data.source import Batch
from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.prediction import Prediction, Target, coefficients
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.diffusion.timesteps import TimestepSampler, Uniform
from toolkit.errors import RecipeError
from toolkit.registry.signature import Default
from toolkit.training.objective import DenoisingLoss, Loss, Objective, Records, Step, Turn

Share = Annotated[float, Field(ge=0, lt=1)]


class Weighting(ABC):
    """How much the error at each time counts."""

    @abstractmethod
    def weights(self, t: Tensor, target: Target) -> Tensor:
        """Factors (B,) float32 of the squared error of `target` at times t (B,).

        Raises:
            RecipeError: if it does not define weights for this target.
        """


@final
class Unweighted(Weighting):
    """The same weight, 1, at all times."""

    def weights(self, t: Tensor, target: Target) -> Tensor:
        return torch.ones(len(t), device=t.device)


@final
class MinSNR(Weighting):
    """min(SNR, gamma) for the error of x_0, SNR = alpha^2 / sigma^2 (Hang et al. 2023).

    For the error of the noise that is min(SNR, gamma) / SNR, for the velocity min(SNR, gamma) / (SNR + 1).

    Args:
        gamma: the signal-to-noise ratio above which the weight no longer grows.
    """

    def __init__(self, schedule: NoiseSchedule, gamma: Annotated[float, Field(gt=0)] = 5.0) -> None:
        self.schedule, self.gamma = schedule, gamma

    def weights(self, t: Tensor, target: Target) -> Tensor:
        alpha, sigma = self.schedule.at(t, torch.empty(len(t)))
        snr = torch.as_tensor(alpha / sigma) ** 2
        clamped = snr.clamp(max=self.gamma)
        if target == "flow":
            raise RecipeError("min_snr says nothing of the flow: set another objective.loss.target")
        of_noise = (self.gamma / snr).clamp(max=1)  # also where the SNR is 0
        return {"noise": of_noise, "x0": clamped, "velocity": clamped / (snr + 1)}[target]


@final
class EDMWeighting(Weighting):
    """(s^2 + d^2) / (s d)^2 for the error of x_0: s = sigma / alpha, d = sigma_data (Karras et al. 2022).

    Args:
        sigma_data: the standard deviation of the data.
    """

    def __init__(self, schedule: NoiseSchedule, sigma_data: Annotated[float, Field(gt=0)] = 0.5) -> None:
        self.schedule, self.sigma_data = schedule, sigma_data

    def weights(self, t: Tensor, target: Target) -> Tensor:
        if target != "x0":
            raise RecipeError(
                f"edm weights are of the error of x0: set objective.loss.target to it, not {target!r}"
            )
        alpha, sigma = self.schedule.at(t, torch.empty(len(t)))
        ratio, data = torch.as_tensor(sigma / alpha), self.sigma_data
        return (ratio.square() + data**2) / (ratio * data).square()


@final
class SquaredError(DenoisingLoss):
    """Weighted squared error of an estimate, the mean over a row (for the noise: Ho et al. 2020, eq. 14).

    Args:
        target: the estimate whose error it is; the flow is for paths in continuous time only.
        weighting: how much the error at each time counts.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        weighting: Annotated[Weighting, Default("none")],
        target: Target = "noise",
    ) -> None:
        super().__init__()
        self._schedule, self._weighting, self.target = schedule, weighting, target
        time = torch.tensor([schedule.noisiest], dtype=torch.int64 if schedule.discrete else torch.float64)
        coefficients(schedule, target, time, torch.empty(1))  # refuses a flow on a chain
        weighting.weights(time, target)  # refuses a target that it has no weights for

    def forward(self, prediction: Prediction, x0: Tensor, noise: Tensor) -> Tensor:
        a, b = coefficients(self._schedule, self.target, prediction.t, x0)
        error: Tensor = prediction.of(self.target) - (a * x0 + b * noise)
        weights = self._weighting.weights(torch.as_tensor(prediction.t), self.target)
        return weights * error.square().flatten(1).mean(1)


class DenoisingObjective(Objective, ABC):
    """One denoiser, trained at random times; a method defines the loss of each row, `losses`.

    Roles, turns, held-out measures, timestep samplers that learn and label dropout are shared by all methods.

    Args:
        schedule: the path.
        timesteps: draws the times of a step; its weights keep the expected loss the same.
        num_classes: of the data; needed for label dropout only.
        label_dropout: the share of labels, in [0, 1), replaced by the null class in training, for
            classifier-free guidance; the network needs null_class = true.

    Raises:
        ValueError: if label_dropout is above 0 and the data has no labels.
    """

    roles = {"denoiser": Denoiser}
    samples = "denoiser"

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: TimestepSampler,
        num_classes: int | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if label_dropout and num_classes is None:
            raise ValueError("label_dropout is for labelled data, which this is not")
        self.schedule, self.timesteps = schedule, timesteps
        self.num_classes, self.label_dropout = num_classes, label_dropout
        self._uniform = Uniform(schedule)

    @abstractmethod
    def losses(self, batch: Batch, t: Tensor, step: Step) -> Tensor:
        """The loss of each row at its time t (B,): (B,) float32, without the weights of `timesteps`.

        The network is `step.networks["denoiser"]`. Noise is drawn here, by torch's own functions.
        """

    @final
    def turns(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=("denoiser",), loss=self._train),)

    @final
    def measures(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", trains=(), loss=self._measure),)

    @final
    def observe(self, turn: str, records: Records) -> None:
        self.timesteps.observe_records(records)

    def _train(self, batch: Batch, step: Step) -> Loss:
        rows = step.rows or range(len(batch.images))
        t, weight = self.timesteps.draw_rows(rows, step.total or len(rows), step.device)
        batch = self.without_some_labels(batch, step)

        def again(t: Tensor) -> Tensor:
            with step.no_grad():
                return self.losses(batch, t, step)

        losses = self.losses(batch, t, step)
        logs = {"unweighted": losses.mean()} if self.timesteps.learns else {}
        return Loss((weight * losses).mean(), logs, self.timesteps.records(t, losses, again))

    def without_some_labels(self, batch: Batch, step: Step) -> Batch:
        """The batch with a random share of its labels, `label_dropout`, replaced by the null class.

        Raises:
            RecipeError: if the network does not know the null class, or knows it but would never learn it.
        """
        denoiser: Denoiser = step.networks["denoiser"]
        if denoiser.null_class != (self.label_dropout > 0):
            raise RecipeError(
                "objective.label_dropout above 0 and networks.denoiser.null_class = true go together: "
                f"label_dropout is {self.label_dropout:g}, null_class is {str(denoiser.null_class).lower()}"
            )
        if not self.label_dropout or batch.labels is None:
            return batch
        dropped = torch.rand(len(batch.labels), device=step.device) < self.label_dropout
        return replace(batch, labels=batch.labels.masked_fill(dropped, self.num_classes or 0))

    def _measure(self, batch: Batch, step: Step) -> Loss:
        # At uniform times whatever `timesteps` is, so that runs can be compared.
        t = self._uniform.draw(len(batch.images), step.device)[0]
        return Loss(self.losses(batch, t, step).mean())


@final
class Denoising(DenoisingObjective):
    """Trains one denoiser by a denoising loss at random times (Ho et al. 2020, algorithm 1).

    Args:
        timesteps: draws the times of a step; its weights keep the expected loss the same.
        loss: what is minimised at each time.
        label_dropout: the share of labels, in [0, 1), replaced by the null class in training.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Annotated[TimestepSampler, Default("uniform")],
        loss: Annotated[DenoisingLoss, Default("squared_error")],
        num_classes: int | None,
        label_dropout: Share = 0.0,
    ) -> None:
        super().__init__(schedule, timesteps, num_classes, label_dropout)
        self.loss = loss

    def losses(self, batch: Batch, t: Tensor, step: Step) -> Tensor:
        noise = torch.randn_like(batch.images)
        x_t = self.schedule.diffuse(batch.images, t, noise)
        losses: Tensor = self.loss(step.networks["denoiser"](x_t, t, label=batch.labels), batch.images, noise)
        return losses
