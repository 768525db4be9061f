"""How the published networks begin, layer by layer: the laws of the authors' code."""

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from toolkit.diffusion.chain import vp_sde
from toolkit_ddgan.discriminator import LargeDiscriminator, SmallDiscriminator
from toolkit_ddgan.generator import PublishedGenerator
from toolkit_ddgan.official import official_modules, official_parameters

ENDS = 1e-10  # variance of what ends a branch, in multiples of 1 / fan


def fans(weight: Tensor) -> tuple[int, int]:
    """fan_in and fan_out, as torch counts them."""
    return weight[0].numel(), weight[:, 0].numel()


def assert_uniform(name: str, weight: Tensor, variance: float) -> None:
    """The standard deviation and the bound of a uniform distribution of this variance, and the mean 0."""
    std, n = sqrt(variance), weight.numel()
    assert float(weight.std()) == pytest.approx(std, rel=3 / sqrt(n)), name  # 7 standard errors
    assert float(weight.mean()) == pytest.approx(0, abs=5 * std / sqrt(n)), name
    assert (1 - 20 / n) * sqrt(3) * std < float(weight.abs().max()) <= 1.0001 * sqrt(3) * std, name


@pytest.fixture(scope="module")
def generator() -> PublishedGenerator:
    torch.manual_seed(0)
    shapes = {"block_out_channels": (16, 32), "layers_per_block": 1, "attention_sides": (8,)}
    widths = {"latent_width": 24, "mapping_width": 48, "mapping_layers": 2}
    return PublishedGenerator(vp_sde(4), (3, 16, 16), **shapes, **widths).requires_grad_(False)


def test_every_weight_of_the_generator_begins_by_the_authors_law(generator: PublishedGenerator) -> None:
    unet = generator.model
    last = list(official_modules(unet))[-1][0]
    seen = set()
    for name, parameter in official_parameters(unet).items():
        if parameter.ndim < 2:
            continue
        layer = name.rsplit(".", 1)[0]
        into, out = fans(parameter.T if name.endswith(".W") else parameter)
        if layer.endswith("style") or layer.startswith("z_transform"):
            law, variance = "fan_out", 1 / out
        else:
            ends = layer.endswith(("Conv_1", "NIN_3")) or layer == last
            scale = ENDS if ends else 0.1 if "NIN" in layer else 1.0
            law, variance = f"fan_avg {scale}", 2 * scale / (into + out)
        assert_uniform(name, parameter, variance)
        seen.add(law)
    assert seen == {"fan_out", "fan_avg 1.0", "fan_avg 0.1", "fan_avg 1e-10"}


def test_every_bias_of_the_generator_begins_at_0_and_gamma_at_1(generator: PublishedGenerator) -> None:
    for name, parameter in official_parameters(generator.model).items():
        if name.endswith("style.bias"):
            gamma, beta = parameter.chunk(2)
            assert bool((gamma == 1).all()) and bool((beta == 0).all()), name
        elif parameter.ndim == 1:
            assert bool((parameter == float(name.endswith("weight"))).all()), name


@pytest.mark.parametrize("kind", [SmallDiscriminator, LargeDiscriminator])
def test_every_weight_of_a_discriminator_begins_by_fan_out(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    judge = kind((3, 16, 16), channels=16, time_width=32).requires_grad_(False)
    ends = {"conv2", "last_conv"} if kind is SmallDiscriminator else {"conv2"}
    for name, parameter in judge.named_parameters():
        if parameter.ndim == 1:
            assert bool((parameter == 0).all()), name
        else:
            scale = ENDS if name.split(".")[-2] in ends else 1.0
            assert_uniform(name, parameter, scale / fans(parameter)[1])
    head = (
        judge.trunk.head.weight
    )  # what mattered most: with fan_avg it began 16 times too small in the paper
    assert float(head.std()) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("kind", [SmallDiscriminator, LargeDiscriminator])
def test_the_generator_begins_at_0_and_the_published_small_discriminator_undecided(
    kind: type[nn.Module], generator: PublishedGenerator
) -> None:
    torch.manual_seed(0)
    x_s, x_t, t = torch.rand(4, 3, 16, 16) * 2 - 1, torch.randn(4, 3, 16, 16), torch.arange(4)
    assert float(generator(x_t, t).x0.abs().max()) < 1e-3
    logits = kind((3, 16, 16), channels=16, time_width=32)(x_s, x_t, t).detach()
    assert (float(logits.abs().max()) < 0.01) == (kind is SmallDiscriminator)
