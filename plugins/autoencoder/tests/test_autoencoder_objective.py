"""What an autoencoder learns from, against closed forms."""

from typing import Any

import pytest
import torch
from autoencoder_recipes import ADVERSARY, AUTOENCODER
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from toolkit import Batch, Step
from toolkit.devices.processes import Processes
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.objective import LinearScalar
from toolkit.training.session import session
from toolkit_autoencoder.network import Autoencoder
from toolkit_autoencoder.objective import Autoencoding, balance, divergence, psnr


class Gain(Autoencoder):
    """Doubles an image to the mean of z, with a fixed variance, and halves z to an image."""

    def __init__(self, log_variance: float) -> None:
        super().__init__()
        self.gain, self.log_variance = nn.Parameter(torch.tensor(2.0)), log_variance
        self.register_buffer("scale", torch.ones(()))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.gain * images, torch.full_like(images, self.log_variance)

    def reconstruct(self, z: Tensor) -> Tensor:
        return z / self.gain

    def last_layer(self) -> nn.Parameter:
        return self.gain

    def latent_shape(self, image_shape: Any) -> tuple[int, ...]:
        return tuple(image_shape)


def at(number: int, **networks: nn.Module) -> Step:
    def none() -> Any:
        return torch.no_grad()

    return Step(number, 0, torch.device("cpu"), networks, networks, none)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    mean, log_variance = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    q, p = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    torch.testing.assert_close(divergence(mean, log_variance), kl_divergence(q, p).flatten(1))


def test_an_error_of_a_tenth_of_the_range_is_twenty_decibels() -> None:
    images = torch.zeros(2, 1, 4, 4)
    torch.testing.assert_close(psnr(images, images + 0.2), torch.full((2,), 20.0))


def test_the_loss_is_the_error_of_a_value_and_the_divergence_of_all_latents_beside_it() -> None:
    images = torch.rand(5, 1, 4, 4) * 2 - 1
    objective, network = Autoencoding(kl_weight=0.3), Gain(log_variance=-30.0)  # z is its mean
    loss = objective.turns()[0].loss(Batch(images, None, 0), at(0, autoencoder=network))
    kl = divergence(2 * images, torch.full_like(images, -30.0)).sum(1).mean()
    torch.testing.assert_close(loss.total, 0.3 * kl / 16, atol=1e-5, rtol=1e-5)
    assert float(loss.logs["l1"].detach()) < 1e-5
    growing = Autoencoding(kl_weight=LinearScalar(start=0.0, end=0.6, steps=4))
    loss = growing.turns()[0].loss(Batch(images, None, 0), at(2, autoencoder=network))
    torch.testing.assert_close(loss.total, 0.3 * kl / 16, atol=1e-5, rtol=1e-5)


def test_latents_have_the_standard_deviation_one_that_is_measured_over_steps() -> None:
    torch.manual_seed(0)
    objective, network = Autoencoding(), Gain(log_variance=-30.0)
    (turn,) = objective.turns()
    for number in range(20):
        loss = turn.loss(
            Batch(0.7 + 0.5 * torch.randn(64, 1, 4, 4), None, 0), at(number, autoencoder=network)
        )
        objective.observe(turn.name, loss.records)
    assert float(network.scale) == pytest.approx(1 / (2 * 0.5), rel=0.02)
    latents = network.encode(0.7 + 0.5 * torch.randn(500, 1, 4, 4))
    assert float(latents.detach().std()) == pytest.approx(1, rel=0.03)
    torch.testing.assert_close(network.decode(latents), latents / network.scale / 2)


def test_the_adversary_counts_as_much_as_the_error_at_the_last_layer() -> None:
    """Gradients 3 and 12 of the same weight: the second is weighted by a quarter, and once only."""
    weight = torch.ones(2, requires_grad=True)
    ratio = balance(3 * weight[0], 12 * weight[0], weight)
    assert float(ratio) == pytest.approx(0.25, rel=1e-4)
    assert not ratio.requires_grad
    assert float(balance(weight[0], 0 * weight[1], weight)) == pytest.approx(1e4)  # never more


def test_the_discriminator_begins_at_its_step(tmp_path: Any) -> None:
    """Until then it is asleep: weight decay leaves it alone, and its optimizer has not counted a step."""
    decaying = ADVERSARY.replace('type = "adam"', 'type = "adamw"\nweight_decay = 0.1')
    text = AUTOENCODER.replace("[objective]", "[objective]\nadversary_start = 2") + decaying
    (tmp_path / "small.toml").write_text(text)
    recipe = resolve(read_layers(tmp_path / "small.toml"), plugins.load().registry)
    with Processes("cpu", "float32") as processes, session(recipe, processes, recipe.common(("run",))) as run:
        discriminator = run.built.training.networks["discriminator"]
        first = [p.clone() for p in discriminator.parameters()]
        said = []
        for _ in range(4):
            run.trainer.step()
            same = [torch.equal(p, old) for p, old in zip(discriminator.parameters(), first, strict=True)]
            said.append((all(same), "autoencoder/adversary_weight" in run.trainer.take_logs()))
        counted = run.trainer.training.optimizers["discriminator"].state_dict()["state"].values()
        assert {int(state["step"]) for state in counted} == {2}
    assert said == [(True, False), (True, False), (False, True), (False, True)]
