import copy
from functools import partial

import pytest
import torch
from gan_networks import ONE_STEP, small_networks
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from toolkit_gan.attention import SelfAttention
from toolkit_gan.dcgan import DCGANDiscriminator, DCGANGenerator
from toolkit_gan.sngan import ClassNorm, DoublingBlock, JudgingBlock, SNGANDiscriminator, SNGANGenerator


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def sides(discriminator, x):
    """The sides of the maps that the blocks give."""
    found = []
    for block in discriminator.blocks:
        x = block(x)
        found.append(x.shape[-1])
    return found


@pytest.mark.parametrize(("side", "generator", "discriminator"), [
    (64, 3_576_704, 2_765_568), (32, 1_068_928, 663_296)
])  # fmt: skip
def test_dcgan_has_the_printed_sizes(side, generator, discriminator):
    shape = (3, side, side)
    assert parameters(DCGANGenerator(ONE_STEP, shape)) == generator
    assert parameters(DCGANDiscriminator(shape)) == discriminator


def test_sngan_has_the_published_sizes():
    assert parameters(SNGANGenerator(ONE_STEP, (3, 32, 32))) == 4_276_739
    assert parameters(SNGANDiscriminator((3, 32, 32))) == 1_053_824


@pytest.mark.parametrize("side", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_dcgan_makes_and_judges_images_of_every_power_of_two(side, channels):
    shape = (channels, side, side)
    images = DCGANGenerator(ONE_STEP, shape, 5, width=2).images(torch.randn(2, 5))
    assert images.shape == (2, *shape) and images.abs().max() <= 1
    assert DCGANDiscriminator(shape, width=2)(images).shape == (2,)


@pytest.mark.parametrize(("side", "first", "maps"), [
    (8, 4, [4, 4, 4]), (16, 4, [8, 8, 8]), (20, 5, [10, 10, 10]), (28, 7, [14, 7, 7, 7]),
    (32, 4, [16, 8, 8, 8]), (64, 4, [32, 16, 8, 8, 8]),
])  # fmt: skip
def test_sngan_doubles_a_map_of_4_to_7_and_judges_one_of_7_to_13(side, first, maps):
    generator = SNGANGenerator(ONE_STEP, (1, side, side), 3, width=2)
    images = generator.images(torch.randn(2, 3))
    assert generator.first_map == (2, first, first) and images.shape == (2, 1, side, side)
    discriminator = SNGANDiscriminator((1, side, side), width=2)
    assert discriminator(images).shape == (2,)
    if side > 8:  # which must be halved at least once
        assert sides(discriminator, images) == maps


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 48, 48), (3, 4, 4)])
@pytest.mark.parametrize("network", [DCGANDiscriminator, lambda shape: DCGANGenerator(ONE_STEP, shape)])
def test_dcgan_refuses_images_that_do_not_halve_to_4x4(network, shape):
    with pytest.raises(ValueError, match=f"{shape[1]}.*: set data.size"):
        network(shape)


@pytest.mark.parametrize("network", [SNGANDiscriminator, lambda shape: SNGANGenerator(ONE_STEP, shape)])
def test_sngan_refuses_sides_that_no_doubling_gives(network):
    with pytest.raises(ValueError, match="gives no 30x30: set data.size"):
        network((3, 30, 30))
    with pytest.raises(ValueError, match="square images"):
        network((3, 32, 64))
    with pytest.raises(ValueError, match=r"square images .* not on \(2,\)"):
        network((2,))


@pytest.mark.parametrize("discriminator", [DCGANDiscriminator, SNGANDiscriminator])
@pytest.mark.parametrize("side", [32, 128])
def test_a_discriminator_for_64x64_refuses_images_of_another_size(discriminator, side):
    network = discriminator((3, 64, 64), width=2)
    with pytest.raises(
        ValueError, match=rf"built for images \(3, 64, 64\), .* cannot judge \(3, {side}, {side}\)"
    ):
        network(torch.zeros(1, 3, side, side))


def test_dcgan_begins_with_the_published_spread_of_weights():
    torch.manual_seed(0)
    for network in (DCGANGenerator(ONE_STEP, (3, 32, 32)), DCGANDiscriminator((3, 32, 32))):
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        convs = [p for p in network.parameters() if p.ndim == 4]
        assert torch.cat([p.flatten() for p in convs]).std().item() == pytest.approx(0.02, rel=0.01)
        assert torch.cat([norm.weight for norm in norms]).mean().item() == pytest.approx(1, abs=0.01)
        assert torch.cat([norm.weight for norm in norms]).std().item() == pytest.approx(0.02, rel=0.2)
        assert all(not norm.bias.any() for norm in norms)


def test_sngan_begins_with_xavier_weights_of_gain_root_two_in_residual_branches():
    torch.manual_seed(0)
    generator = SNGANGenerator(ONE_STEP, (3, 32, 32), width=64)
    block = generator.blocks[0]
    for conv, gain, inputs in ((block.conv1, 2, 9 * 64), (block.shortcut, 1, 64)):
        variance = gain * 2 / (2 * inputs)  # of gain^2 x 2 / (inputs + outputs), here as many
        assert conv.weight.var().item() == pytest.approx(variance, rel=0.05) and not conv.bias.any()


@torch.no_grad()
def test_the_order_of_shortcuts_makes_no_difference():
    """Published: enlarge, then convolve 1x1; and convolve 1x1, then pool. Both commute."""
    torch.manual_seed(0)
    x, up, down = torch.randn(2, 4, 6, 6), DoublingBlock(4).eval(), JudgingBlock(4, halve=True)
    branch = up.conv2(relu(up.norm2(up.conv1(interpolate(relu(up.norm1(x)), scale_factor=2)))))
    assert torch.allclose(up(x), branch + up.shortcut(interpolate(x, scale_factor=2)), atol=1e-5)
    branch = avg_pool2d(down.conv2(relu(down.conv1(relu(x)))), 2)
    assert torch.allclose(down(x), branch + avg_pool2d(down.shortcut(x), 2), atol=1e-5)


def singular_values(network):
    return [
        torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2).item()
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding)
    ]


def test_spectral_normalisation_brings_every_largest_singular_value_to_one():
    torch.manual_seed(0)
    network = SNGANDiscriminator((1, 16, 16), width=8, attention=(8,))
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)
    for _ in range(40):
        network(x)
    network.eval()
    assert len(singular_values(network)) == 3 + 2 + 2 + 4 + 1
    assert singular_values(network) == pytest.approx([1] * 12, abs=0.02)
    free = SNGANDiscriminator((1, 16, 16), width=8, spectral_norm=False)
    assert max(singular_values(free)) > 1.5


def test_sagan_normalises_every_matrix_of_both_networks():
    """Conditional batch normalisation keeps its tables: they are scales and shifts, no matrix."""
    torch.manual_seed(0)
    options = {"width": 8, "attention": (8,), "num_classes": 10, "conditional": True}
    generator = SNGANGenerator(ONE_STEP, (1, 16, 16), 4, spectral_norm=True, **options)
    discriminator = SNGANDiscriminator((1, 16, 16), **options)
    x, label = torch.randn(4, 1, 16, 16), torch.arange(4)
    with torch.no_grad():
        for p in (*generator.parameters(), *discriminator.parameters()):
            p.mul_(3)
    for _ in range(40):
        generator.images(torch.randn(4, 4), label)
        discriminator(x, label)
    for network, layers in ((generator.eval(), 1 + 2 * 3 + 4 + 1), (discriminator.eval(), 12 + 1)):
        assert singular_values(network) == pytest.approx([1] * layers, abs=0.02)


def test_a_conditional_generator_scales_and_shifts_by_class():
    torch.manual_seed(0)
    norm, x = ClassNorm(4, classes=3), torch.randn(5, 4, 2, 2)
    label, plain = torch.tensor([0, 2, 2, 1, 0]), nn.BatchNorm2d(4, affine=False)
    assert torch.equal(norm(x, label), plain(x))
    with torch.no_grad():
        norm.scales.normal_()
        norm.shifts.normal_()
    scale, shift = (table[label][:, :, None, None] for table in (norm.scales, norm.shifts))
    assert torch.allclose(norm(x, label), scale * plain(x) + shift, atol=1e-6)
    for classes, differ in ((None, False), (3, True)):
        generator = SNGANGenerator(ONE_STEP, (1, 8, 8), 4, width=4, num_classes=classes, conditional=differ)
        for module in generator.modules():
            if isinstance(module, ClassNorm) and differ:
                nn.init.normal_(module.shifts)
        z = torch.randn(1, 4).expand(2, 4)
        noise, t, label = torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.tensor([0, 1])
        one, other = generator.eval()(noise, t, label=label, latent=z).x0
        assert torch.equal(one, other) is not differ


def test_the_projection_adds_the_features_in_the_direction_of_the_class():
    torch.manual_seed(0)
    plain = SNGANDiscriminator((1, 8, 8), width=4, spectral_norm=False)
    told = SNGANDiscriminator((1, 8, 8), width=4, spectral_norm=False, num_classes=3, conditional=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    x, label = torch.randn(5, 1, 8, 8), torch.tensor([0, 2, 2, 1, 0])
    features = relu(plain.blocks(x)).sum((2, 3))
    expected = plain(x) + (features * told.projection.weight[label]).sum(1)
    assert torch.allclose(told(x, label), expected, atol=1e-5) and torch.equal(plain(x, label), plain(x))


@pytest.mark.parametrize("network", [SNGANDiscriminator, partial(SNGANGenerator, ONE_STEP)])
def test_a_conditional_network_needs_labelled_data(network):
    with pytest.raises(ValueError, match="conditional = true needs labelled data"):
        network((1, 8, 8), width=4, conditional=True)


def test_power_iterations_run_in_training_only():
    network = small_networks()["discriminator"]
    x, before = torch.randn(2, 1, 8, 8), copy.deepcopy(network.state_dict())

    def moved():
        return [name for name, t in network.state_dict().items() if not torch.equal(t, before[name])]

    network.eval()
    first = network(x)
    assert torch.equal(network(x), first) and moved() == []
    network.train()
    network(x)
    assert moved() and all(name.endswith(("_u", "_v")) for name in moved())


def test_spectral_norm_is_in_the_state_and_copies_with_the_network():
    network = small_networks()["discriminator"]
    x = torch.randn(2, 1, 8, 8)
    for _ in range(3):
        network(x)
    other = SNGANDiscriminator((1, 8, 8), width=4)
    other.load_state_dict(network.state_dict())
    copied = copy.deepcopy(network)
    for _ in range(2):  # also after one more power iteration
        here = network(x)
        assert torch.equal(here, other(x)) and torch.equal(here, copied(x))


def test_attention_begins_as_the_identity_and_then_is_the_weighted_sum_of_the_paper():
    torch.manual_seed(0)
    attention, x = SelfAttention(8), torch.randn(2, 8, 3, 4)
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gamma.fill_(0.5)
        rows = x.flatten(2).transpose(1, 2)  # (B, positions, C)
        f, g, h = (
            rows @ conv.weight.flatten(1).T + conv.bias for conv in (attention.f, attention.g, attention.h)
        )
        for i in range(12):
            beta = (f * g[:, i : i + 1]).sum(2).softmax(1)
            o = (beta[:, :, None] * h).sum(1) @ attention.v.weight.flatten(1).T + attention.v.bias
            assert torch.allclose(attention(x).flatten(2)[:, :, i], rows[:, i] + 0.5 * o, atol=1e-5)


def test_attention_sits_once_at_each_side_that_is_named():
    generator = SNGANGenerator(ONE_STEP, (3, 32, 32), 4, width=8, attention=(8, 32))
    assert [isinstance(layer, SelfAttention) for layer in generator.blocks] == [
        False,
        True,
        False,
        False,
        True,
    ]
    discriminator = SNGANDiscriminator((3, 32, 32), width=8, attention=(8,))
    assert [isinstance(layer, SelfAttention) for layer in discriminator.blocks] == [False] * 4 + [True]
    with pytest.raises(ValueError, match=r"attention = \[12\] names no map of this network; there are 16, 8"):
        SNGANDiscriminator((3, 32, 32), attention=(8, 12))
