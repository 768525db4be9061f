"""Distribution matching distillation (Yin et al. 2024a, "DMD"; 2024b, "DMD2")."""

from collections.abc import Mapping
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from toolkit import (
    Batch,
    Default,
    Denoiser,
    DenoisingLoss,
    Loss,
    NoiseSchedule,
    Objective,
    RecipeError,
    Sampler,
    Start,
    Step,
    Turn,
)
from toolkit_distill.discriminator import DiffusedDiscriminator
from toolkit_distill.sampler import FewStep
from toolkit_distill.times import at, inner_times, student_times

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
SCORES = ("student", "teacher", "fake_score")
LEAST = 1e-6  # keeps 0 / 0 out where student and teacher agree to the last digit


@final
class DMD(Objective):
    """A student whose samples, at every noise level, are distributed as the teacher's (Yin et al. 2024).

        x = G(x_t),   gradient = (fake(x_t) - teacher(x_t)) / mean |x - teacher(x_t)|

    The gradient is of x, at a random t and x_t ~ q(x_t | x); teacher and fake score estimate x_0 there, and
    the mean is over a sample. The fake score follows the student: a step is `fake_updates` updates of it, by
    a denoising loss on the student's samples, then one of the student (two time scales, DMD2). Times of both
    are uniform over the same part of the path. The networks may be of any method that estimates x_0, on any
    path. Without a discriminator nothing is learnt from the data but which classes a conditional student is
    asked for.

    A student of several calls is trained at one of them, drawn for each row; the calls before it are made
    without gradient, as in sampling (DMD2, section 4.5).

    Args:
        loss: of the fake score; the teacher's own is the natural choice.
        times: at which the student is called, descending, as in the sampler `few_step`; by default the
            noisiest alone. A first time below the noisiest is called with noise all the same.
        fake_updates: of the fake score, and of the discriminator, for one of the student; DMD2 takes 5.
        low: distributions are compared from this share of the path on, 2 % in the paper,
        high: and up to this one, 98 % there: of a chain's timesteps, or of a grid of 1000 times of a path.
            Where the teacher estimates noise, its x_0 is hardly more than error near the end of a chain.
        adversarial_weight: weight of softplus(-D(x_t, t)) in the student's loss; above 0 there is a role
            "discriminator", on diffused real and generated samples at the same times (DMD2).

    Raises:
        ValueError: if a time is not on the path, or `low` and `high` leave none.
    """

    samples = "student"

    def __init__(
        self,
        schedule: NoiseSchedule,
        loss: Annotated[DenoisingLoss, Default("squared_error")],
        times: tuple[float, ...] | None = None,
        fake_updates: Count = 5,
        low: Share = 0.02,
        high: Share = 0.98,
        adversarial_weight: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.schedule, self.loss = schedule, loss
        self.times, self.fake_updates = student_times(schedule, times), fake_updates
        self.register_buffer("compared", inner_times(schedule, low, high), persistent=False)
        self.compared: Tensor
        self.adversarial_weight = adversarial_weight
        self.roles: Mapping[str, type[nn.Module]] = dict.fromkeys(SCORES, Denoiser)
        if adversarial_weight:
            self.roles = {**self.roles, "discriminator": DiffusedDiscriminator}

    def refuse_sampling(self, sampler: Sampler, start: Start) -> None:
        if not isinstance(sampler, FewStep) or sampler.times != self.times:
            raise RecipeError(
                f'[sampler] a student is called at objective.times: set type = "few_step", times = '
                f"{list(self.times)}"
            )

    def turns(self) -> tuple[Turn, ...]:
        fake = Turn("fake_score", ("fake_score",), self._fake_score_turn, times=self.fake_updates)
        judge = Turn("discriminator", ("discriminator",), self._discriminator_turn, times=self.fake_updates)
        student = Turn("student", ("student",), self._student_turn)
        return (fake, judge, student) if self.adversarial_weight else (fake, student)

    def generate(self, batch: Batch, step: Step) -> Tensor:
        """As many samples of the student as the batch has rows, of the same shape and classes.

        The gradient is that of the last call of each row.
        """
        student: Denoiser = step.networks["student"]
        x_t = self.schedule.prior_std * torch.randn_like(batch.images)
        t, s = (at(self.schedule, time, x_t) for time in (self.times[0], self.schedule.clean))
        if len(self.times) > 1:
            calls = torch.randint(len(self.times), (len(x_t),), device=x_t.device)
            for i, time in enumerate(self.times[1:], start=1):
                with step.no_grad():
                    x = student(x_t, t, s=s, label=batch.labels).x0
                later, earlier = at(self.schedule, time, x_t), calls >= i
                ahead = self.schedule.diffuse(x, later, torch.randn_like(x))
                x_t = torch.where(earlier.view(-1, *[1] * (x.ndim - 1)), ahead, x_t)
                t = torch.where(earlier, later, t)
        samples: Tensor = student(x_t, t, s=s, label=batch.labels).x0
        return samples

    def _fake_score_turn(self, batch: Batch, step: Step) -> Loss:
        refuse_unlike(step.networks)
        with step.no_grad():
            x = self.generate(batch, step)
        t, noise = self._draw(len(x)), torch.randn_like(x)
        prediction = step.networks["fake_score"](self.schedule.diffuse(x, t, noise), t, label=batch.labels)
        return Loss(self.loss(prediction, x, noise).mean())

    def _discriminator_turn(self, batch: Batch, step: Step) -> Loss:
        with step.no_grad():
            x = self.generate(batch, step)
        t, judge = self._draw(len(x)), step.networks["discriminator"]
        real, fake = (
            judge(self.schedule.diffuse(of, t, torch.randn_like(of)), t, batch.labels).float()
            for of in (batch.images, x)
        )
        logs = {"real": real.mean(), "fake": fake.mean()}
        return Loss(softplus(-real).mean() + softplus(fake).mean(), logs)

    def _student_turn(self, batch: Batch, step: Step) -> Loss:
        x = self.generate(batch, step)
        t = self._draw(len(x))
        x_t = self.schedule.diffuse(x, t, torch.randn_like(x))
        with step.no_grad():
            fake, teacher = (
                step.networks[role](x_t.detach(), t, label=batch.labels).x0
                for role in ("fake_score", "teacher")
            )
        gradient = matching_gradient(x.detach(), fake, teacher)
        total = (x - (x.detach() - gradient)).square().mean() / 2  # its gradient in x is `gradient` / size
        logs = {"gradient": gradient.abs().mean()}
        if self.adversarial_weight:
            adversarial = softplus(-step.networks["discriminator"](x_t, t, batch.labels).float()).mean()
            total, logs["adversarial"] = total + self.adversarial_weight * adversarial, adversarial
        return Loss(total, logs)

    def _draw(self, n: int) -> Tensor:
        return self.compared[torch.randint(len(self.compared), (n,), device=self.compared.device)]


def matching_gradient(x: Tensor, fake: Tensor, teacher: Tensor) -> Tensor:
    """(fake - teacher) / mean |x - teacher|, the mean over each sample (DMD, equations 7 and 8).

    Args:
        x: samples (B, ...) of the student.
        fake: the fake score's estimates of them (B, ...), from x_t.
        teacher: the teacher's.
    """
    scale = (x - teacher).abs().flatten(1).mean(1).clamp(min=LEAST)
    return (fake - teacher) / scale.view(-1, *[1] * (x.ndim - 1))


def refuse_unlike(networks: Mapping[str, Denoiser]) -> None:
    """Refuse networks that cannot be compared.

    Raises:
        RecipeError: if the teacher draws x_0, or some are told classes and others are not.
    """
    for role in ("teacher", "fake_score"):
        if not networks[role].respaceable:
            raise RecipeError(f"[networks.{role}] draws x_0, and distillation needs one that estimates it")
    told = {role: networks[role].conditional for role in SCORES}
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{role} {str(is_told).lower()}" for role, is_told in told.items())
        raise RecipeError(f"[networks] conditional must be the same in all three: {listed}")
