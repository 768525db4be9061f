"""A truncated chain and the generator of its start, trained in one run."""

import inspect
from contextlib import nullcontext
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from toolkit import (
    Batch,
    Chain,
    Default,
    Denoiser,
    DenoisingLoss,
    Loss,
    Network,
    Objective,
    RecipeError,
    Sampler,
    Start,
    Step,
    Turn,
)
from toolkit_tdpm.start import Truncated

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Adversarial = Literal["non_saturating", "hinge"]


@final
class TDPM(Objective):
    """Truncated diffusion (Zheng et al. 2023): the first steps of a chain, and a generator for the rest.

        L_denoiser = E loss(x_t, t),   t uniform over 0, ..., t_trunc - 1
        L_D = E f(D(x_t)) + E f(-D(x_t')),   L_G = E softplus(-D(x_t'))   at t = t_trunc - 1

    x_t ~ q(x_t | x_0) of data, x_t' ~ q(x_t | G(z)); f(d) is softplus(-d), or for hinge relu(1 - d), and L_G
    is then -E D(x_t'). The generator is a denoiser that draws x_0, as GANs have it: its image with noise over
    it is what the discriminator judges, and what a walk starts from. (The paper's generator draws x_t itself,
    and may be the denoiser's own network.)

    With t_trunc = T this is `denoising` of the whole chain, and "denoiser" is the only role. With 0 it is a
    GAN: roles "generator" and "discriminator", on a chain of one step of pure noise.

    A discriminator is any network with `forward(x, label=None)` that gives logits (B,).

    Args:
        t_trunc: how many steps of the chain are left, 0..T.
        loss: of the denoiser.
        adversarial: of generator and discriminator, non_saturating (Goodfellow et al. 2014) or hinge.
        n_dis: updates of the discriminator for one of the generator and one of the denoiser.
        r1_gamma: half of it is the weight of E |grad D|^2 at diffused data (Mescheder et al. 2018).

    Raises:
        ValueError: if t_trunc is beyond T, or 0 on a chain of more than one step of pure noise.
    """

    def __init__(
        self,
        schedule: Chain,
        t_trunc: Annotated[int, Field(ge=0)],
        loss: Annotated[DenoisingLoss, Default("squared_error")],
        adversarial: Adversarial = "non_saturating",
        n_dis: Count = 1,
        r1_gamma: Weight = 0.0,
    ) -> None:
        super().__init__()
        total = schedule.num_train_timesteps
        if t_trunc > total:
            raise ValueError(f"t_trunc must be from 0 to {total}, the length of the chain, not {t_trunc}")
        if t_trunc == 0 and schedule.alphas_cumprod.tolist() != [0.0]:
            raise ValueError(
                't_trunc = 0 is a GAN, on a chain of one step of pure noise: [schedule] type = "betas", '
                "betas = [1.0]"
            )
        self.schedule, self.t_trunc, self.loss = schedule, t_trunc, loss
        self.adversarial, self.n_dis, self.r1_gamma = adversarial, n_dis, r1_gamma
        self.generates, self.denoises = t_trunc < total, t_trunc > 0
        self.samples = "denoiser" if self.denoises else "generator"
        self.roles: dict[str, type[nn.Module]] = {"denoiser": Denoiser} if self.denoises else {}
        if self.generates:
            self.roles |= {"generator": Denoiser, "discriminator": Network}

    def refuse_sampling(self, sampler: Sampler, start: Start) -> None:
        truncated = start.t_trunc if isinstance(start, Truncated) else None
        if self.generates and self.denoises and truncated != self.t_trunc:
            raise RecipeError(
                f'[start] the denoiser knows t_trunc = {self.t_trunc} steps: set type = "tdpm" and the same '
                "t_trunc"
            )
        if truncated is not None and not (self.generates and self.denoises):
            raise RecipeError(f"[start] with objective.t_trunc = {self.t_trunc} samples start from noise")

    def turns(self) -> tuple[Turn, ...]:
        adversaries = (
            Turn(
                "discriminator", ("discriminator",), self._discriminator_turn, times=self.n_dis,
                second_order=("discriminator",) if self.r1_gamma else (),
            ),
            Turn("generator", ("generator",), self._generator_turn),
        )  # fmt: skip
        denoiser = Turn("denoiser", ("denoiser",), self._denoiser_turn)
        return (*(adversaries if self.generates else ()), *((denoiser,) if self.denoises else ()))

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("denoiser", (), self._denoiser_turn),) if self.denoises else ()

    def fakes(self, batch: Batch, step: Step) -> Tensor:
        """As many images of the generator as the batch has, of the same shape."""
        generator: Denoiser = step.networks["generator"]
        refuse_classes("generator", generator)
        noise = torch.randn_like(batch.images)
        prediction = generator(noise, torch.zeros(len(noise), dtype=torch.int64, device=noise.device))
        if prediction.target != "x0":
            raise RecipeError(f"[networks.generator] predicts the {prediction.target}: it must draw x_0")
        images: Tensor = prediction.x0
        return images

    def diffused(self, x0: Tensor) -> Tensor:
        """q(x_t | x_0) at t = t_trunc - 1, of x0 (B, ...); with t_trunc = 0 x0 itself."""
        if not self.t_trunc:
            return x0
        return self.schedule.diffuse(x0, self.t_trunc - 1, torch.randn_like(x0))

    def _discriminator_turn(self, batch: Batch, step: Step) -> Loss:
        fake = self.diffused(self.fakes(batch, step))
        real = self.diffused(batch.images).requires_grad_(bool(self.r1_gamma))
        with step.float32() if self.r1_gamma else nullcontext():  # in bf16 R1's gradient would be off
            real_logits, fake_logits = (logits_of(step, x) for x in (real, fake))
            cost = softplus if self.adversarial == "non_saturating" else hinge
            total = cost(-real_logits).mean() + cost(fake_logits).mean()
            logs = {"real": real_logits.mean(), "fake": fake_logits.mean()}
            if self.r1_gamma:
                (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
                logs["r1"] = slope.square().flatten(1).sum(1).mean()
                total = total + self.r1_gamma / 2 * logs["r1"]
        return Loss(total, logs)

    def _generator_turn(self, batch: Batch, step: Step) -> Loss:
        logits = logits_of(step, self.diffused(self.fakes(batch, step)))
        loss = softplus(-logits) if self.adversarial == "non_saturating" else -logits
        return Loss(loss.mean(), {"fake": logits.mean()})

    def _denoiser_turn(self, batch: Batch, step: Step) -> Loss:
        denoiser: Denoiser = step.networks["denoiser"]
        if self.generates:
            refuse_classes("denoiser", denoiser)
        if denoiser.null_class:
            raise RecipeError("[networks.denoiser] null_class must be false: no label is dropped here")
        x0, kept = batch.images, self.schedule.timesteps[: self.t_trunc].to(step.device)
        t = kept[torch.randint(len(kept), (len(x0),), device=step.device)]
        noise = torch.randn_like(x0)
        x_t = self.schedule.diffuse(x0, t, noise)
        return Loss(self.loss(denoiser(x_t, t, label=batch.labels), x0, noise).mean())


def refuse_classes(role: str, network: Denoiser) -> None:
    """Raise a RecipeError for a conditional network: the generator draws no class, which nothing changes."""
    if network.conditional:
        raise RecipeError(f"[networks.{role}] conditional must be false: walks start from no class")


def hinge(logits: Tensor) -> Tensor:
    return relu(1 + logits)


def logits_of(step: Step, x: Tensor) -> Tensor:
    """The discriminator's logits (B,) of x (B, ...), in float32.

    Raises:
        RecipeError: if it is no discriminator of images alone.
    """
    judge = step.networks["discriminator"]
    takes = inspect.signature(judge.forward).parameters.values()
    needed = [one.name for one in takes if one.default is one.empty]
    if len(needed) != 1 or "label" not in {one.name for one in takes} or getattr(judge, "conditional", False):
        kind = type(judge).__name__
        raise RecipeError(
            f"[networks.discriminator] a {kind} does not judge images alone: it must give logits (B,) from "
            "x, as the discriminators of the plugin gan do, and not be conditional"
        )
    logits: Tensor = judge(x).float()
    if logits.shape != (len(x),):
        raise RecipeError(f"[networks.discriminator] gives {tuple(logits.shape)}, not one logit a row")
    return logits
