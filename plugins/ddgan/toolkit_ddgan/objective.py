"""The adversarial objective of DDGAN."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import l1_loss, softplus

from toolkit import Batch, Chain, Denoiser, Loss, Objective, ScalarSchedule, Step, Turn, at_step
from toolkit_ddgan.discriminator import TransitionDiscriminator

Weight = Annotated[float, Field(ge=0)]
SPAN = 0.01  # of finite differences, as Lin et al. (2025) take


@dataclass(frozen=True)
class TurnDraws:
    """What is random in one turn, for x_0 (B, ...).

    Attributes:
        t: (B,) int64; x_t is the noisier image of each pair, x_s, at t - 1, the other.
        to_s: the noise that leads from x_0 to x_s.
        to_t: the noise that leads from x_s to x_t.
        back: the noise that leads from x_t and x_0' to x_s'.
        latent: z, (B, ...); if None, the denoiser draws it.
    """

    t: Tensor
    to_s: Tensor
    to_t: Tensor
    back: Tensor
    latent: Tensor | None = None


@final
class DDGAN(Objective):
    """Denoising diffusion GAN: an adversary for every step of a short chain (Xiao et al. 2022).

        L_D = E softplus(-D(x_s, x_t, t)) + E softplus(D(x_s', x_t, t)) + gamma / 2 E |grad D(x_s, x_t, t)|^2
        L_G = E softplus(-D(x_s', x_t, t))

    x_t is noisier than x_s by one step, x_s' ~ q(x_s | x_t, x_0'), and x_0' = G(x_t, t, z). The gradient is
    with respect to x_s.

    Args:
        r1_gamma: gamma, the weight of R1 (Mescheder et al. 2018); it may follow a schedule.
        r1_every: take R1 only in steps whose number is a multiple of this, as 0 is.
        r1_scaled: multiply R1 by r1_every, as StyleGAN2 does. The published code does not, so that its mean
            weight is r1_gamma / (2 r1_every).
        r1_slopes: "exact", or by "finite_differences" (D(x_s + h n) - D(x_s))^2 / h^2 with n ~ N(0, I) and
            h = 0.01 (Lin et al. 2025), whose mean is R1 + O(h^2): one more forward pass, and no gradient of
            a gradient, so that the discriminator can be compiled. Not published for this method.
        x0_weight: weight of a further discriminator that judges x_0' itself, before noise covers it: role
            "x0_discriminator", on (x_0, x_t, t). Not published; 0 is the published method.
        l1_weight: weight of |x_0' - x_0| in the generator's loss. Not published; WaveDiff (Phung et al. 2023)
            takes 1.
    """

    samples = "denoiser"

    def __init__(
        self,
        schedule: Chain,
        r1_gamma: Weight | ScalarSchedule,
        r1_every: Annotated[int, Field(ge=1)] = 1,
        r1_scaled: bool = False,
        r1_slopes: Literal["exact", "finite_differences"] = "exact",
        x0_weight: Weight = 0.0,
        l1_weight: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.r1_gamma, self.r1_every, self.r1_scaled = r1_gamma, r1_every, r1_scaled
        self.exact = r1_slopes == "exact"
        self.x0_weight, self.l1_weight = x0_weight, l1_weight
        self.judges = ("discriminator", "x0_discriminator") if x0_weight else ("discriminator",)
        self.roles = {"denoiser": Denoiser} | dict.fromkeys(self.judges, TransitionDiscriminator)

    def turns(self) -> tuple[Turn, ...]:
        return (
            Turn(
                "discriminator", self.judges, self._discriminator_turn,
                second_order=self.judges if self.exact else (),
            ),
            Turn("denoiser", ("denoiser",), self._denoiser_turn),
        )  # fmt: skip

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("z_sensitivity", (), self._z_sensitivity),)

    def draw(self, x0: Tensor) -> TurnDraws:
        """Fresh draws, from torch's own generator."""
        t = torch.randint(self.schedule.num_train_timesteps, (len(x0),), device=x0.device)
        return TurnDraws(t, *torch.randn(3, *x0.shape, device=x0.device))

    def pair(self, x0: Tensor, draws: TurnDraws) -> tuple[Tensor, Tensor]:
        """x_s and x_t; x_t comes from x_s by one step of the chain and not from x_0 anew."""
        x_s = self.schedule.diffuse(x0, draws.t - 1, draws.to_s)
        return x_s, self.schedule.advance(x_s, draws.t - 1, draws.t, draws.to_t)

    def back(self, x0: Tensor, x_t: Tensor, draws: TurnDraws) -> Tensor:
        """x_s' ~ q(x_s | x_t, x0); x0 itself at s = -1."""
        mean, std = self.schedule.posterior(x0, x_t, draws.t - 1, draws.t)
        return mean + std * draws.back

    def discriminator_loss(self, x0: Tensor, draws: TurnDraws, step: Step) -> Loss:
        """L_D, with weight x0_weight also for the discriminator of x_0'."""
        x_s, x_t = self.pair(x0, draws)
        with step.no_grad():
            fake_x0 = step.networks["denoiser"](x_t, draws.t, latent=draws.latent).x0
            fake = self.back(fake_x0, x_t, draws)
        loss = self._judge("discriminator", x_s, fake, x_t, draws.t, step)
        if not self.x0_weight:
            return loss
        extra = self._judge("x0_discriminator", x0, fake_x0, x_t, draws.t, step)
        logs = {f"x0_{name}": value for name, value in extra.logs.items()}
        return Loss(loss.total + self.x0_weight * extra.total, {**loss.logs, **logs})

    def _judge(self, role: str, real: Tensor, fake: Tensor, x_t: Tensor, t: Tensor, step: Step) -> Loss:
        judge = step.networks[role]
        weight = at_step(self.r1_gamma, step.number) / 2 * (self.r1_every if self.r1_scaled else 1)
        penalised = weight > 0 and step.number % self.r1_every == 0
        r1 = None
        # In bf16 the gradient of R1 would be off by 5e-3.
        with step.float32() if penalised else nullcontext():
            real = real.detach().requires_grad_(penalised and self.exact)
            real_logits = judge(real, x_t, t)
            if penalised and self.exact:
                r1 = squared_slope(real_logits, real).mean()
            elif penalised:
                moved = judge(real + SPAN * torch.randn_like(real), x_t, t)
                r1 = ((moved - real_logits) / SPAN).square().mean()
        fake_logits = judge(fake, x_t, t)
        total = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        logs = {"real": real_logits.mean(), "fake": fake_logits.mean()}
        if r1 is not None:
            total, logs["r1"] = total + weight * r1, r1
        return Loss(total, logs)

    def denoiser_loss(self, x0: Tensor, draws: TurnDraws, step: Step) -> Loss:
        """L_G, and what the options add to it."""
        t = draws.t
        _, x_t = self.pair(x0, draws)
        fake_x0 = step.networks["denoiser"](x_t, t, latent=draws.latent).x0
        fake = self.back(fake_x0, x_t, draws)
        total = softplus(-step.networks["discriminator"](fake, x_t, t)).mean()
        logs = {}
        if self.x0_weight:
            # At t = 0 x_s' is x_0' itself, which the other discriminator judges already.
            per_row = (t > 0) * softplus(-step.networks["x0_discriminator"](fake_x0, x_t, t))
            logs["x0_adversarial"] = per_row.mean()
            total = total + self.x0_weight * logs["x0_adversarial"]
        if self.l1_weight:
            logs["l1"] = l1_loss(fake_x0, x0)
            total = total + self.l1_weight * logs["l1"]
        return Loss(total, logs)

    def _discriminator_turn(self, batch: Batch, step: Step) -> Loss:
        return self.discriminator_loss(batch.images, self.draw(batch.images), step)

    def _denoiser_turn(self, batch: Batch, step: Step) -> Loss:
        return self.denoiser_loss(batch.images, self.draw(batch.images), step)

    def _z_sensitivity(self, batch: Batch, step: Step) -> Loss:
        """How far x_0' moves with z alone: its standard deviation given x_t. Near 0, modes are lost."""
        denoiser, draws = step.networks["denoiser"], self.draw(batch.images)
        _, x_t = self.pair(batch.images, draws)
        first, second = (denoiser(x_t, draws.t).x0 for _ in range(2))
        return Loss(((first - second).square().mean() / 2).sqrt())


def squared_slope(logits: Tensor, x: Tensor) -> Tensor:
    """|d logits / d x|^2 of each row (B,), differentiable; x (B, ...) is a leaf of the logits' graph."""
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return slope.square().flatten(1).sum(1)
