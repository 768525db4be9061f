"""The objective of autoencoders: reconstruction, KL divergence and, as an option, an adversary."""

from typing import Annotated, final

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from toolkit import Batch, Loss, Objective, Rate, RecipeError, Records, ScalarSchedule, Step, Turn, at_step
from toolkit_autoencoder.discriminator import Discriminator
from toolkit_autoencoder.network import Autoencoder

MEMORY = 100  # steps over which the spread of latents is measured
LARGEST = 1e4  # of the adaptive weight, as published


@final
class Autoencoding(Objective):
    """Trains an autoencoder to give images back from a code near N(0, I) (Rombach et al. 2022, appendix G).

        L = (sum |x - x'| + kl_weight KL(q(z given x), N(0, I)) + w adversary_weight sum -D(x')) / values of x
        w = |grad of sum |x - x'|| / |grad of -D(x')|,   both by the decoder's last layer (Esser et al. 2021)

    x' is decoded from z ~ q(z given x), KL is a sum over the values of z: 1e-6 as published is for latents of
    another model, 1 is the evidence bound for a Laplace distribution of width 1 around x' (Kingma & Welling
    2014). D is a patch discriminator (role "discriminator") with the hinge loss. Left out as against the
    paper: its perceptual loss, which needs a network trained on photographs.

    The standard deviation of the means of z is measured over the last hundred steps or so, and the
    autoencoder keeps 1 / it as `scale`.

    Args:
        kl_weight: of each latent value's divergence next to each image value's error; may follow a schedule.
        adversary_start: the step in which the discriminator begins to learn and to count; None for none.
        adversary_weight: multiplies the adaptive weight.
    """

    samples = "autoencoder"
    spread: Tensor

    def __init__(
        self,
        kl_weight: Rate | ScalarSchedule = 1e-6,
        adversary_start: Annotated[int, Field(ge=0)] | None = None,
        adversary_weight: Rate = 0.5,
    ) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.adversary_start, self.adversary_weight = adversary_start, adversary_weight
        self.roles: dict[str, type[nn.Module]] = {"autoencoder": Autoencoder}
        if adversary_start is not None:
            self.roles["discriminator"] = Discriminator
        # Steps, and running means of the means of z and of their squares: float64, as they are subtracted.
        self.register_buffer("spread", torch.zeros(3, dtype=torch.float64))

    def turns(self) -> tuple[Turn, ...]:
        autoencoder = Turn("autoencoder", ("autoencoder",), self._train)
        if self.adversary_start is None:
            return (autoencoder,)
        return (autoencoder, Turn("discriminator", ("discriminator",), self._judge))

    def measures(self) -> tuple[Turn, ...]:
        return (Turn("autoencoder", (), self._measure),)

    def refuse_sharding(self) -> None:
        """Encoder and decoder are called apart, and the adversary is weighed at one layer's weights."""
        raise RecipeError("[objective] autoencoder does not go with run.sharding: remove that")

    def observe(self, turn: str, records: Records) -> None:
        if turn != "autoencoder":
            return
        seen = torch.stack([records["mean"].double().mean(), records["square"].double().mean()])
        share = (1 / (1 + self.spread[0])).clamp(min=1 / MEMORY)
        self.spread[1:] += share * (seen - self.spread[1:])
        self.spread[0] += 1

    def asleep(self, step: Step) -> dict[str, set[str]]:
        """The discriminator's parameters before it begins."""
        if self.adversary_start is None or self._judged(step):
            return {}
        return {"discriminator": {name for name, _ in step.networks["discriminator"].named_parameters()}}

    def _judged(self, step: Step) -> bool:
        return self.adversary_start is not None and step.number >= self.adversary_start

    def _train(self, batch: Batch, step: Step) -> Loss:
        network: Autoencoder = step.networks["autoencoder"]
        steps, first, second = self.spread
        network.scale.copy_(torch.where(steps > 0, (second - first**2).clamp(min=1e-12).rsqrt(), 1.0))
        mean, log_variance = network.posterior(batch.images)
        images = network.reconstruct(drawn(mean, log_variance))
        l1, kl = (batch.images - images).abs().mean(), divergence(mean, log_variance)
        kl_weight = at_step(self.kl_weight, step.number)
        total = l1 + kl_weight * kl.sum(1).mean() / batch.images[0].numel()
        logs = {"l1": l1, "kl": kl.mean()}
        if self._judged(step):
            fooled = -step.networks["discriminator"](images).mean()
            weight = balance(l1, fooled, network.last_layer())
            total = total + self.adversary_weight * weight * fooled
            logs |= {"adversary": fooled, "adversary_weight": weight}
        flat = mean.detach().flatten(1)
        return Loss(total, logs, {"mean": flat.mean(1), "square": flat.square().mean(1)})

    def _judge(self, batch: Batch, step: Step) -> Loss:
        network, discriminator = step.networks["autoencoder"], step.networks["discriminator"]
        if not self._judged(step):
            return Loss(torch.zeros(()))  # of no parameter: all of them are asleep
        with step.no_grad():
            fake = network.reconstruct(drawn(*network.posterior(batch.images)))
        on_real, on_fake = discriminator(batch.images), discriminator(fake)
        loss = (relu(1 - on_real).mean() + relu(1 + on_fake).mean()) / 2
        return Loss(loss, {"real": on_real.mean(), "fake": on_fake.mean()})

    def _measure(self, batch: Batch, step: Step) -> Loss:
        """The error of images decoded from the mean of their code, as latent diffusion decodes them."""
        network: Autoencoder = step.networks["autoencoder"]
        mean, log_variance = network.posterior(batch.images)
        images = network.reconstruct(mean)
        flat = mean.flatten(1)
        logs = {
            "psnr": psnr(batch.images, images.clamp(-1, 1)).mean(),
            "kl": divergence(mean, log_variance).mean(),
            "latent_std": (network.scale * flat).std(),
        }
        return Loss((batch.images - images).abs().mean(), logs)


def drawn(mean: Tensor, log_variance: Tensor) -> Tensor:
    """z ~ N(mean, exp(log variance))."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log variance)), N(0, 1)) of each latent value (B, D), in nats."""
    each = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return each.flatten(1)


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each row (B,) in dB: 10 log10(2^2 / mean squared error) on [-1, 1]."""
    error = (images - others).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def balance(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """|gradient of first by weight| / |gradient of second by it|, a number without a gradient of its own."""
    a, b = (torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (first, second))
    ratio: Tensor = a / (b + 1e-4)
    return ratio.clamp(max=LARGEST).detach()
