import subprocess
import sys

import pytest
import torch
from ddgan_networks import light_generator
from ddgan_reference import hashed, vectors

from toolkit import RecipeError
from toolkit.diffusion.chain import vp_sde
from toolkit_ddgan.discriminator import LargeDiscriminator, SmallDiscriminator, minibatch_spread
from toolkit_ddgan.embedding import PixelNorm, sinusoids
from toolkit_ddgan.fir import Blur, Double
from toolkit_ddgan.generator import PublishedGenerator

DISCRIMINATORS = [SmallDiscriminator, LargeDiscriminator]


def test_sinusoids_equal_the_official_ones():
    expected = torch.tensor(vectors()["timestep_embedding_dim8_t0123"])
    assert torch.allclose(sinusoids(torch.arange(4), 8), expected, atol=1e-6)


def test_resampling_equals_the_official_filters():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    official = vectors()["fir_1331"]
    halved, doubled = Blur(stride=2, padding=1)(x), Double()(x)
    assert torch.allclose(halved.flatten(), torch.tensor(official["down2"]), atol=1e-6)
    assert torch.allclose(doubled.flatten(), torch.tensor(official["up2_row_major_8x8"]), atol=1e-6)


def test_resampling_equals_diffusers():
    from diffusers.models.downsampling import downsample_2d
    from diffusers.models.upsampling import upsample_2d

    x, kernel = torch.randn(2, 3, 8, 8), [1.0, 3.0, 3.0, 1.0]
    assert torch.allclose(Blur(stride=2, padding=1)(x), downsample_2d(x, kernel), atol=1e-6)
    assert torch.allclose(Double()(x), upsample_2d(x, kernel), atol=1e-6)


def test_minibatch_spread_equals_the_official_one():
    h = hashed(600, 8, 3, 2, 2) * (1 + torch.arange(8) / 4)[:, None, None, None]
    expected = torch.tensor(vectors()["minibatch_stddev_group4"]["per_sample"])
    assert torch.allclose(minibatch_spread(h).flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
@pytest.mark.parametrize("rows", [5, 6, 7, 10])
def test_a_micro_batch_that_does_not_divide_into_groups_is_refused_with_the_remedy(discriminator, rows):
    judge, x = discriminator((1, 8, 8), channels=4, time_width=8), torch.randn(rows, 1, 8, 8)
    with pytest.raises(RecipeError, match=f"cannot judge {rows} at a time: set .* to multiples of 4"):
        judge(x, x, torch.zeros(rows, dtype=torch.int64))


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 20)])
def test_discriminators_take_any_channels_and_sizes(discriminator, shape):
    x_s, x_t = torch.randn(2, 4, *shape)
    logits = discriminator(shape, channels=4, time_width=8)(x_s, x_t, torch.arange(4))
    assert logits.shape == (4,) and logits.isfinite().all()


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
def test_discriminators_refuse_points(discriminator):
    with pytest.raises(ValueError, match=r"not on \(2,\)"):
        discriminator((2,))


def test_pixel_norm_gives_rows_of_mean_square_one():
    assert torch.allclose(PixelNorm()(torch.randn(3, 50) * 7).square().mean(1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_light_generator_returns_images_in_range(channels):
    x_t = torch.randn(4, channels, 8, 8)
    x0 = light_generator(channels)(x_t, torch.arange(4)).x0
    assert x0.shape == x_t.shape and x0.abs().max() < 1


@pytest.mark.parametrize("published", [False, True])
def test_a_generator_of_latents_is_not_bounded(published):
    """Latents have a standard deviation of 1, so that a third of them lies beyond what tanh gives."""

    def clean(bounded):
        torch.manual_seed(0)
        options = {
            "block_out_channels": (8, 8),
            "attention_sides": (),
            "latent_width": 5,
            "mapping_width": 16,
        }
        if published:
            generator = PublishedGenerator(
                vp_sde(4), (1, 8, 8), layers_per_block=1, bounded=bounded, **options
            )
        else:
            generator = light_generator(bounded=bounded)
        x_t, t = 20 * torch.randn(2, 1, 8, 8), torch.tensor([0, 3])
        with torch.no_grad():
            return generator.eval()(x_t, t, latent=torch.ones(2, 5)).x0

    torch.testing.assert_close(clean(bounded=False).tanh(), clean(bounded=True))


def test_light_generator_depends_on_z_and_reproduces_with_it():
    generator, x_t, t = light_generator(), torch.randn(4, 1, 8, 8), torch.arange(4)
    seeds = [torch.Generator().manual_seed(i) for i in range(4)]
    z = generator.latent(4, seeds)
    assert z.shape == (4, 5)
    assert torch.equal(generator(x_t, t, latent=z).x0, generator(x_t, t, latent=z).x0)
    assert not torch.equal(generator(x_t, t, latent=z).x0, generator(x_t, t, latent=z + 1).x0)
    assert torch.equal(z[1:2], generator.latent(1, [torch.Generator().manual_seed(1)]))


def test_light_generator_draws_z_itself_from_the_default_generator():
    generator, x_t, t = light_generator(), torch.randn(4, 1, 8, 8), torch.arange(4)
    torch.manual_seed(0)
    first, second = generator(x_t, t).x0, generator(x_t, t).x0
    torch.manual_seed(0)
    assert torch.equal(first, generator(x_t, t).x0) and not torch.equal(first, second)


def test_light_generator_keeps_the_norm_of_its_middle_attention():
    assert light_generator().model.mid_block.attentions[0].group_norm.num_groups == 4


def test_light_generator_names_what_the_image_size_must_be_divisible_by():
    with pytest.raises(ValueError, match="7x7 must be divisible by 2: pad the data"):
        light_generator(side=7)


def test_published_generator_refuses_attention_that_no_level_would_have():
    with pytest.raises(
        ValueError, match=r"attention_sides \[16\] must be among those of the levels, \[28, 14, 7\]"
    ):
        PublishedGenerator(vp_sde(4), (1, 28, 28), (8, 8, 8))


@pytest.mark.slow
def test_finding_the_plugin_does_not_import_diffusers():
    code = "import sys, toolkit_ddgan; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
