"""The published networks, three training steps and sampling, against numbers from the authors' code."""

from contextlib import nullcontext

import pytest
import torch
from ddgan_reference import (
    fill_discriminator,
    fill_generator,
    hashed,
    unit,
    vectors,
)  # fmt: skip

from toolkit import Step
from toolkit.diffusion.chain import vp_sde
from toolkit.training.ema import EMA, EMAOptions
from toolkit.training.optimizers import Cosine
from toolkit_ddgan.discriminator import LargeDiscriminator, SmallDiscriminator
from toolkit_ddgan.generator import PublishedGenerator
from toolkit_ddgan.objective import DDGAN, TurnDraws, squared_slope
from toolkit_ddgan.official import official_modules, official_parameters


def tiny_generator():
    generator = PublishedGenerator(
        vp_sde(4), (3, 16, 16), block_out_channels=(16, 32), layers_per_block=1, attention_sides=(8,),
        latent_width=8, mapping_width=16, mapping_layers=2,
    )  # fmt: skip
    fill_generator(generator.model, vectors()["tiny_generator"]["state_dict"])
    return generator


def tiny_discriminator(size):
    kind = {"small": SmallDiscriminator, "large": LargeDiscriminator}[size]
    side, halvings = {"small": (16, 3), "large": (64, 6)}[size]  # official: fixed, whatever the image
    judge = kind((3, side, side), channels=4, time_width=16, halvings=halvings)
    fill_discriminator(judge, vectors()[f"tiny_discriminator_{size}"]["state_dict"])
    return judge


def assert_summary(tensor, official, atol=2e-5):
    """A tensor against its shape, first numbers and moments."""
    assert list(tensor.shape) == official["shape"]
    assert torch.allclose(tensor.flatten()[:8], torch.tensor(official["first8"]), rtol=0, atol=atol)
    assert tensor.mean().item() == pytest.approx(official["mean"], abs=atol)
    assert tensor.std().item() == pytest.approx(official["std_unbiased"], abs=atol)
    assert tensor.norm().item() == pytest.approx(official["l2"], rel=1e-4)


def gradient_norm(network):
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm().item()


@torch.no_grad()
def test_latent_mapping_equals_the_official_one():
    mapping = tiny_generator().model.class_embedding.module
    assert_summary(mapping(unit(701, 8, 8)), vectors()["tiny_generator"]["mapping_output"])


@torch.no_grad()
@pytest.mark.parametrize("index", range(7))
def test_residual_blocks_equal_the_official_ones(index):
    case = vectors()["tiny_generator"]["resblocks"][index]
    block = dict(official_modules(tiny_generator().model))[f"all_modules.{case['all_modules_index']}"]
    embedding = torch.cat([unit(710, 2, 64), unit(711, 2, 16)], dim=1)
    assert_summary(block(hashed(712, 2, case["in_ch"], 8, 8), embedding), case["output"])


@torch.no_grad()
def test_attention_equals_the_official_one():
    official = vectors()["tiny_generator"]["attention"]
    block = dict(official_modules(tiny_generator().model))[f"all_modules.{official['all_modules_index']}"]
    assert_summary(block(hashed(713, 2, 32, 8, 8)), official["output"])


@torch.no_grad()
def test_generator_equals_the_official_one():
    x0 = tiny_generator()(hashed(700, 8, 3, 16, 16), torch.arange(8) % 4, latent=unit(701, 8, 8)).x0
    assert_summary(x0, vectors()["tiny_generator"]["output"])


def test_small_discriminator_and_its_r1_equal_the_official_ones():
    official, judge = vectors()["tiny_discriminator_small"], tiny_discriminator("small")
    x_s = hashed(700, 8, 3, 16, 16).requires_grad_()
    logits = judge(x_s, hashed(702, 8, 3, 16, 16), torch.arange(8) % 4)
    assert torch.allclose(logits, torch.tensor(official["logits"]), rtol=2e-4)
    slopes = squared_slope(logits, x_s)
    assert torch.allclose(slopes, torch.tensor(official["r1_per_sample_sq_grad_norm"]), rtol=2e-4)
    r1 = 0.05 / 2 * slopes.mean()
    assert r1.item() == pytest.approx(official["r1_loss_gamma0_05"], rel=2e-4)
    r1.backward()
    assert gradient_norm(judge) == pytest.approx(official["r1_param_grad_l2"], rel=2e-4)
    # R1 does not depend on the last bias; the logits' own loss does, so it has a gradient in every turn.
    assert [name for name, p in judge.named_parameters() if p.grad is None] == ["trunk.head.bias"]


@torch.no_grad()
def test_large_discriminator_equals_the_official_one():
    official, judge = vectors()["tiny_discriminator_large"], tiny_discriminator("large")
    logits = judge(hashed(720, 4, 3, 64, 64), hashed(721, 4, 3, 64, 64), torch.arange(4))
    assert torch.allclose(logits, torch.tensor(official["logits"]), rtol=2e-4)


def test_three_training_steps_equal_the_official_ones():
    generator, judge = tiny_generator(), tiny_discriminator("small")
    networks = {"denoiser": generator, "discriminator": judge}
    objective = DDGAN(vp_sde(4), r1_gamma=0.05, r1_every=2)
    adam_g = torch.optim.Adam(generator.parameters(), 1.6e-4, (0.5, 0.9))
    adam_d = torch.optim.Adam(judge.parameters(), 1.25e-4, (0.5, 0.9))

    def draws(t, first):
        images = [unit(first + i, 8, 3, 16, 16) for i in (0, 1, 3)]
        return TurnDraws(t, *images, latent=unit(first + 2, 8, 8))

    for number, official in enumerate(vectors()["tiny_training_steps"]["steps"]):
        rtol = 2e-4 if number == 0 else 1e-3
        step = Step(number, 0, torch.device("cpu"), networks, networks, nullcontext)
        start = 800 + 20 * number
        x0 = hashed(start, 8, 3, 16, 16)

        adam_d.zero_grad()
        loss = objective.discriminator_loss(x0, draws((3 * torch.arange(8) + number) % 4, start + 1), step)
        loss.total.backward()
        expected = official["errD_real"] + (official["r1_term"] or 0) + official["errD_fake"]
        assert loss.total.item() == pytest.approx(expected, rel=rtol)
        if official["r1_term"] is not None:
            assert 0.05 / 2 * loss.logs["r1"].item() == pytest.approx(official["r1_term"], rel=rtol)
        fake_logits = torch.tensor(official["D_fake_logits"]).mean()
        assert loss.logs["fake"].item() == pytest.approx(fake_logits.item(), rel=rtol)
        assert gradient_norm(judge) == pytest.approx(official["D_grad_l2"], rel=rtol)
        adam_d.step()

        judge.requires_grad_(False)
        adam_g.zero_grad()
        loss = objective.denoiser_loss(x0, draws((torch.arange(8) + number) % 4, start + 5), step)
        loss.total.backward()
        assert loss.total.item() == pytest.approx(official["errG"], rel=rtol)
        assert gradient_norm(generator) == pytest.approx(official["G_grad_l2"], rel=rtol)
        adam_g.step()
        judge.requires_grad_(True)


@torch.no_grad()
def test_sampling_equals_the_official_one():
    generator, schedule = tiny_generator(), vp_sde(4)
    x = unit(900, 2, 3, 16, 16)
    for t in reversed(range(4)):
        rows = torch.full((2,), t)
        x0 = generator(x, rows, latent=unit(910 + t, 2, 8)).x0
        mean, std = schedule.posterior(x0, x, rows - 1, rows)
        x = mean + std * unit(920 + t, 2, 3, 16, 16)
    assert_summary(x, vectors()["tiny_sampling_T4"]["output"])


def test_generator_of_cifar10_has_the_official_parameters():
    schedule = vp_sde(4)
    with torch.device("meta"):
        model = PublishedGenerator(schedule, (3, 32, 32)).model
    shapes = {name: list(p.shape) for name, p in official_parameters(model).items()}
    assert shapes == dict(map(tuple, vectors()["cifar10_netG_state_dict"]))


def test_discriminator_of_cifar10_has_the_official_parameters():
    with torch.device("meta"):
        state = SmallDiscriminator((3, 32, 32)).state_dict()
    official = vectors()["cifar10_netD_state_dict"]
    assert [list(p.shape) for p in state.values()] == [shape for _, shape in official]


@pytest.mark.parametrize(
    ("name", "network", "shape", "options"),
    [
        ("netG_cifar10_nmlp4", PublishedGenerator, (3, 32, 32), {}),
        ("netG_cifar10_nmlp3", PublishedGenerator, (3, 32, 32), {"mapping_layers": 3}),
        ("netG_1ch_cifar_cfg", PublishedGenerator, (1, 32, 32), {}),
        (
            "netG_256_nf64_112244", PublishedGenerator, (3, 256, 256),
            {"block_out_channels": (64, 64, 128, 128, 256, 256), "mapping_layers": 3},
        ),
        ("netD_small_ngf64", SmallDiscriminator, (3, 32, 32), {}),
        ("netD_small_ngf64_1ch", SmallDiscriminator, (1, 32, 32), {}),
        ("netD_small_ngf32", SmallDiscriminator, (3, 32, 32), {"channels": 32}),
        ("netD_large_ngf64", LargeDiscriminator, (3, 256, 256), {}),
    ],
)  # fmt: skip
def test_parameter_counts_are_the_official_ones(name, network, shape, options):
    supplied = {"schedule": vp_sde(4)} if network is PublishedGenerator else {}
    with torch.device("meta"):
        built = network(**supplied, sample_shape=shape, **options)
    assert sum(p.numel() for p in built.parameters()) == vectors()["param_counts"][name]


def test_learning_rates_of_the_recipe_are_the_official_ones():
    rate = Cosine(steps=1800 * 195, floor=1e-5, every=195)  # 195 batches an epoch
    for epoch, official in vectors()["cosine_lr_1.6e-4_Tmax1800_etamin1e-5"].items():
        assert rate(1.6e-4, int(epoch) * 195 + 194) == pytest.approx(official, rel=1e-5)


def test_the_average_of_the_recipe_is_the_official_one():
    network = torch.nn.Linear(1, 1, bias=False)
    average = EMA(network, EMAOptions(decay=0.9, start="first_step"))
    found = []
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(network.weight, value)
        average.update(network)
        found.append(average.network.weight.item())
    assert found == pytest.approx(vectors()["ema_decay0.9_values_1_2_4"])
