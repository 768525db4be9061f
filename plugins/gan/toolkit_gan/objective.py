"""The objective of one-shot GANs."""

from functools import partial
from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import Batch, Chain, Denoiser, Loss, Objective, RecipeError, Records, Step, Turn
from toolkit_gan.augmentation import Augmentation
from toolkit_gan.interfaces import Discriminator
from toolkit_gan.losses import (
    Adversarial,
    Judge,
    Slopes,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    relativistic_loss,
    squared_difference,
    squared_slope,
)

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


@final
class GAN(Objective):
    """Generator against discriminator (Goodfellow et al. 2014), one image a network call.

    A generator is a denoiser that draws x_0 from pure noise on a chain of one step, so that samplers and
    pipelines need to know nothing of it. A step is `n_dis` updates of the discriminator, each on a fresh
    batch, then one of the generator. Each turn draws x_1 and z first, then what the options below ask for.
    Generated images have the classes of the real ones of their batch, for networks that are conditional.

    Batch normalisation sees one micro-batch of real or of generated images at a time, and spectral norm takes
    a power iteration in each forward pass in training: results depend on the size of a micro-batch.

    Args:
        loss: non_saturating, hinge, wasserstein or relativistic; see `toolkit_gan.losses`.
        n_dis: updates of the discriminator for one of the generator.
        fakes_per_real: images generated in the generator's turn for each of the batch size (SNGAN takes 2).
        gp_weight: weight of E (|grad D| - 1)^2 between real and generated images (Gulrajani et al. 2017, 10).
        r1_gamma: half of it is the weight of E |grad D|^2 at real images (Mescheder et al. 2018).
        r2_gamma: half of it is the weight of E |grad D|^2 at generated images; R3GAN (Huang et al. 2024) is
            the relativistic loss with as much of R1 as of R2.
        slopes: how R1 and R2 are computed: "exact", or by "finite_differences", one more forward pass of
            two batches instead of a gradient of a gradient. Their mean is the same to O(h^2), h = 0.01.
        drift: weight of E D(x)^2 at real images, which keeps a critic near 0 (Karras et al. 2018, 0.001).
        penalty_every: take gp, r1 and r2 in one of so many updates of the discriminator, with so many
            times the weight (lazy regularisation, Karras et al. 2020).
        dequantise: add U[0, dequantise) to real images (SNGAN takes 1/128, one grey level).
        instance_noise: standard deviation of Gaussian noise added to all that the discriminator sees
            (Arjovsky & Bottou 2017).
        augment: what is done alike to real and generated images before the discriminator, and its penalties,
            see them: "diffusion" is Diffusion-GAN.

    Raises:
        ValueError: if the schedule is not one step from pure noise, or finite differences are of nothing.
    """

    roles = {"generator": Denoiser, "discriminator": Discriminator}
    samples = "generator"

    def __init__(
        self,
        schedule: Chain,
        loss: Adversarial,
        n_dis: Count = 1,
        fakes_per_real: Count = 1,
        gp_weight: Weight = 0.0,
        r1_gamma: Weight = 0.0,
        r2_gamma: Weight = 0.0,
        slopes: Slopes = "exact",
        drift: Weight = 0.0,
        penalty_every: Count = 1,
        dequantise: Weight = 0.0,
        instance_noise: Weight = 0.0,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__()
        if schedule.alphas_cumprod.tolist() != [0.0]:
            raise ValueError(
                'a one-shot GAN needs a chain of one step from pure noise: [schedule] type = "betas", '
                "betas = [1.0]"
            )
        if slopes != "exact" and not r1_gamma + r2_gamma:
            raise ValueError(f'slopes = "{slopes}" is of R1 and R2: r1_gamma and r2_gamma are both 0')
        self.loss, self.n_dis, self.fakes_per_real = loss, n_dis, fakes_per_real
        self.gp_weight, self.penalty_every = gp_weight, penalty_every
        self.slope_weights, self.slopes = {"r1": r1_gamma / 2, "r2": r2_gamma / 2}, slopes
        self.drift, self.dequantise, self.instance_noise = drift, dequantise, instance_noise
        self.augment = augment

    def turns(self) -> tuple[Turn, ...]:
        exact = self.slopes == "exact" and any(self.slope_weights.values())
        return (
            Turn(
                "discriminator", ("discriminator",), self._discriminator_turn, times=self.n_dis,
                second_order=("discriminator",) if exact or self.gp_weight else (),
            ),
            Turn("generator", ("generator",), self._generator_turn),
        )  # fmt: skip

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("discriminator", (), self._held_out),)

    def observe(self, turn: str, records: Records) -> None:
        if self.augment is not None and turn == "discriminator":
            self.augment.observe(records["real"])

    def fakes(self, batch: Batch, step: Step, times: int = 1) -> Tensor:
        """So many times as many images as the batch has, of the same shape and classes."""
        generator, judge = step.networks["generator"], step.networks["discriminator"]
        if generator.conditional != judge.conditional:
            one, other = (str(network.conditional).lower() for network in (generator, judge))
            raise RecipeError(
                "networks.generator.conditional and networks.discriminator.conditional go together: they are "
                f"{one} and {other}"
            )
        n = times * len(batch.images)
        noise = torch.randn(n, *batch.images.shape[1:], device=step.device)
        t = torch.zeros(n, dtype=torch.int64, device=step.device)
        fakes: Tensor = generator(noise, t, label=repeated(batch.labels, times)).x0
        return fakes

    def _strengths(self, n: int, step: Step) -> Tensor | None:
        """How strongly each of n images is augmented, (n,); None if none is."""
        if self.augment is not None:
            return self.augment.draw(n, step.device)
        if step.networks["discriminator"].timed:
            raise RecipeError(
                "networks.discriminator.timed asks how strongly images are augmented, and none is: add "
                "[objective.augment]"
            )
        return None

    def _changed(self, x: Tensor, t: Tensor | None) -> Tensor:
        """Images with instance noise, augmented with these strengths."""
        x = x + self.instance_noise * torch.randn_like(x) if self.instance_noise else x
        return x if self.augment is None else self.augment(x, t)

    def _pair(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor, Tensor | None]:
        """Real and generated images as the discriminator sees them, and their strengths of augmentation."""
        fake = self.fakes(batch, step)
        t = self._strengths(len(fake), step)
        return self._seen(batch.images, t), self._changed(fake, t), t

    def _seen(self, real: Tensor, t: Tensor | None) -> Tensor:
        """Real images as the discriminator sees them."""
        return self._changed(real + self.dequantise * torch.rand_like(real) if self.dequantise else real, t)

    def _judged(self, real: Tensor, fake: Tensor) -> Loss:
        """The discriminator's loss from its logits, without penalties."""
        logs = {"real": real.mean(), "fake": fake.mean()}
        return Loss(discriminator_loss(self.loss, real, fake), logs)

    def _penalties(
        self, real: Tensor, fake: Tensor, label: Tensor | None, step: Step, t: Tensor | None = None
    ) -> dict[str, tuple[float, Tensor]]:
        """The penalties on the slope that are due in this update, with their weights."""
        result = {}
        if (step.number * self.n_dis + step.repetition) % self.penalty_every == 0:
            judge = judge_of(step, label, t)
            with step.float32():  # bf16 would spoil a gradient of a gradient, and a small difference
                if self.gp_weight:
                    result["gp"] = self.gp_weight * self.penalty_every, gradient_penalty(judge, real, fake)
                for (name, weight), x in zip(self.slope_weights.items(), (real, fake), strict=True):
                    if weight and self.slopes == "exact":
                        result[name] = weight * self.penalty_every, squared_slope(judge, x)
                    elif weight:
                        of_both = judge_of(step, repeated(label, 2), repeated(t, 2))
                        result[name] = weight * self.penalty_every, squared_difference(of_both, x)
        return result

    def _discriminator_turn(self, batch: Batch, step: Step) -> Loss:
        real, fake, t = self._pair(batch, step)
        judge = judge_of(step, batch.labels, t)
        real_logits, fake_logits = logits_of(judge, real, fake)
        loss = self._judged(real_logits, fake_logits)
        penalties = self._penalties(real, fake, batch.labels, step, t)
        if self.drift:
            penalties["drift"] = self.drift, real_logits.square().mean()
        total = loss.total + sum(weight * value for weight, value in penalties.values())
        logs = {**loss.logs, **{name: value for name, (_, value) in penalties.items()}}
        if self.augment is None:
            return Loss(total, logs)
        return Loss(total, {**logs, **self.augment.logs()}, {"real": real_logits.detach()})

    def _generator_turn(self, batch: Batch, step: Step) -> Loss:
        fake = self.fakes(batch, step, self.fakes_per_real)
        t = self._strengths(len(fake), step)
        judge = judge_of(step, repeated(batch.labels, self.fakes_per_real), t)
        logits = judge(self._changed(fake, t)).float()
        if self.loss != "relativistic":
            return Loss(generator_loss(self.loss, logits), {"fake": logits.mean()})
        with step.no_grad():
            real = judge(self._seen(torch.cat([batch.images] * self.fakes_per_real), t)).float()
        return Loss(relativistic_loss(real, logits), {"fake": logits.mean(), "real": real.mean()})

    def _held_out(self, batch: Batch, step: Step) -> Loss:
        """The discriminator's loss on images it was not trained on: the higher, the more it overfits."""
        real, fake, t = self._pair(batch, step)
        return self._judged(*logits_of(judge_of(step, batch.labels, t), real, fake))


def judge_of(step: Step, label: Tensor | None, t: Tensor | None) -> Judge:
    """The discriminator, asked about rows of these classes, augmented with these strengths."""
    network = step.networks["discriminator"]
    return partial(network, label=label, t=t) if network.timed else partial(network, label=label)


def logits_of(judge: Judge, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of real and of generated images, in float32: bf16 would be too coarse for the losses."""
    return judge(real).float(), judge(fake).float()  # apart, so that each has batch statistics of its own


def repeated(of_rows: Tensor | None, times: int) -> Tensor | None:
    return of_rows if of_rows is None else of_rows.repeat(times)
