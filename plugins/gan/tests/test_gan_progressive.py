"""Progressive growing: the stage of a step, what is used and seen at it, and runs that stop in the middle."""

import json
from functools import partial

import pytest
import torch
from gan_networks import ONE_STEP, step_of
from gan_runs import TINY_PROGRESSIVE, train
from safetensors.torch import load_file
from torch.nn.functional import avg_pool2d, conv2d

from toolkit import Batch, load
from toolkit.randomness import generators_for
from toolkit_gan.growth import ProgressiveGAN
from toolkit_gan.progressive import (
    EqualisedConv,
    PixelNorm,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    Spread,
    asleep,
    at_stage,
)

STAGES = pytest.mark.parametrize("stage", [0.0, 0.25, 1.0, 1.5, 2.0])


def networks(stage=2.0, side=16):
    torch.manual_seed(0)
    result = {
        "generator": ProgressiveGenerator(ONE_STEP, (1, side, side), 4, width=6, base=64),
        "discriminator": ProgressiveDiscriminator((1, side, side), width=6, base=64),
    }
    for network in result.values():
        network.growth.stage = stage
    return result


def squares(x, n):
    """Each square of n x n pixels replaced by its mean."""
    return avg_pool2d(x, n).repeat_interleave(n, 2).repeat_interleave(n, 3)


def test_networks_have_the_published_sizes():
    """The paper gives 23.1 million for each at 1024x1024, and for its maps 512 to 16 channels."""
    with torch.device("meta"):
        generator = ProgressiveGenerator(ONE_STEP, (3, 1024, 1024))
        discriminator = ProgressiveDiscriminator((3, 1024, 1024))
    sizes = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
    assert [round(size / 1e5) for size in sizes] == [231, 231] and sizes == [23_079_115, 23_087_249]
    channels = [layer.weight.shape[1] for layer in generator.rgb]
    assert channels == [512, 512, 512, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize(("number", "stage"), [
    (0, 0), (9, 0), (10, 0), (11, 0.1), (19, 0.9), (20, 1), (29, 1), (30, 1), (35, 1.5), (40, 2), (1000, 2),
])  # fmt: skip
def test_the_stage_follows_from_the_number_of_the_step(number, stage):
    """A phase of 40 images is 10 steps of 4: a level holds, the next fades in, and the last one stays."""
    given, objective = networks(), ProgressiveGAN(ONE_STEP, phase_images=40)
    step = step_of(given, number, total=4)
    for turn in objective.turns():
        for network in given.values():
            network.growth.stage = 2.0
        loss = turn.loss(Batch(torch.zeros(4, 1, 16, 16), None, 0), step)
        assert float(loss.logs["stage"]) == pytest.approx(stage)
        assert [network.growth.stage for network in given.values()] == pytest.approx([stage, stage])


@STAGES
def test_what_sleeps_is_exactly_what_has_no_gradient(stage):
    given, number = networks(), {0.0: 0, 0.25: 5, 1.0: 8, 1.5: 14, 2.0: 20}[stage]
    objective = ProgressiveGAN(ONE_STEP, phase_images=16)
    step = step_of(given, number, total=4)
    sleeping = objective.asleep(step)
    for turn in objective.turns():
        (role,) = turn.trains
        turn.loss(Batch(torch.randn(4, 1, 16, 16), None, 0), step).total.backward()
        without = {name for name, p in given[role].named_parameters() if p.grad is None}
        assert without == sleeping[role] and given[role].growth.stage == stage
        for network in given.values():
            network.zero_grad()


@STAGES
def test_images_of_a_stage_are_squares_of_equal_pixels(stage):
    given, side = networks(stage), {0.0: 4, 0.25: 8, 1.0: 8, 1.5: 16, 2.0: 16}[stage]
    images = given["generator"].images(torch.randn(3, 4))
    assert images.shape == (3, 1, 16, 16) and torch.allclose(images, squares(images, 16 // side), atol=1e-6)
    assert side == 4 or not torch.allclose(images, squares(images, 32 // side))
    real = torch.randn(3, 1, 16, 16)
    seen, again = (given["discriminator"](x) for x in (real, squares(real, 16 // side)))
    assert torch.allclose(seen, again, atol=1e-5)


@torch.no_grad()
def test_a_level_fades_in_between_the_levels_that_it_joins():
    """In the generator and in real images on a line; in the discriminator without a jump."""
    given, z, real = networks(), torch.randn(3, 4), torch.randn(3, 1, 16, 16)
    generator, judge = given["generator"], given["discriminator"]

    def at(stage):
        generator.growth.stage = judge.growth.stage = stage
        return generator.images(z), at_stage(real, judge.growth), judge(real)

    lower, middle, upper, nearly, hardly = (at(stage) for stage in (1.0, 1.25, 2.0, 2 - 1e-6, 1 + 1e-6))
    for low, mid, high in zip(lower[:2], middle[:2], upper[:2], strict=True):
        assert torch.allclose(mid, 0.75 * low + 0.25 * high, atol=1e-5)
    assert torch.equal(upper[1], real) and torch.allclose(lower[1], squares(real, 2), atol=1e-6)
    for end, near in ((lower, hardly), (upper, nearly)):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(end, near, strict=True))
    assert not torch.allclose(lower[2], upper[2], atol=1e-2)


def test_layers_equal_their_formulas():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5)
    conv = EqualisedConv(4, 2, 3)
    assert conv.weight.std().item() == pytest.approx(1, abs=0.2) and not conv.bias.any()
    scale = (2 / (4 * 9)) ** 0.5  # He et al. 2015
    assert torch.allclose(conv(x), conv2d(x, scale * conv.weight, padding=1), atol=1e-6)
    assert torch.allclose(PixelNorm()(x).square().mean(1), torch.ones(3, 5, 5), atol=1e-5)
    spread = Spread()(x)
    assert torch.equal(spread[:, :4], x) and spread.shape == (3, 5, 5, 5)
    assert torch.allclose(spread[:, 4], x.std(0, correction=0).mean().expand(3, 5, 5), atol=1e-6)
    assert Spread()(x[:1])[:, 4].abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 48, 48)])
@pytest.mark.parametrize("network", [ProgressiveDiscriminator, partial(ProgressiveGenerator, ONE_STEP)])
def test_images_that_do_not_halve_to_4x4_are_refused(network, shape):
    with pytest.raises(ValueError, match=f"side must be 8, 16, 32, 64, ..., not {shape[1]}: set data.size"):
        network(shape)


def state(folder):
    """All tensors of a checkpoint: networks, averages and optimizers."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{n}": t for path in files for n, t in load_file(path).items()}


@pytest.mark.parametrize("stop", [2, 5, 6])  # at the first level, in the middle of a fade, at its end
@pytest.mark.slow
def test_a_run_resumed_at_any_stage_ends_at_the_bits_of_an_unbroken_one(stop, tmp_path):
    (tmp_path / "r.toml").write_text(TINY_PROGRESSIVE)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert not train(tmp_path / "r.toml", f"run.out={whole}").exit_code
    assert not train(tmp_path / "r.toml", f"run.out={resumed}", f"run.steps={stop}").exit_code
    result = train(tmp_path / "r.toml", f"run.out={resumed}", flags=("--resume",))
    assert not result.exit_code, result.output
    one, other = (state(folder / "checkpoints" / "step-0000008") for folder in (whole, resumed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    stages = [json.loads(line).get("discriminator/stage") for line in (whole / "metrics.jsonl").open()]
    expected = [0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1]
    assert [s for s in stages if s is not None] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("steps", "stage"), [(2, 0.0), (6, 2 / 3), (8, 1.0)])
@pytest.mark.slow
def test_a_run_that_stopped_on_its_way_samples_at_its_stage(steps, stage, precision, tmp_path):
    (tmp_path / "r.toml").write_text(TINY_PROGRESSIVE)
    given = (f"run.out={tmp_path / 'run'}", f"run.steps={steps}", f"run.precision={precision}")
    assert not train(tmp_path / "r.toml", *given).exit_code
    pipeline = load(tmp_path / "run")
    assert pipeline.denoiser.growth.stage == stage
    images = pipeline.draw(generators_for(0, 0, 4, torch.device("cpu")), 4)
    assert images.shape == (4, 1, 8, 8) and torch.equal(images, squares(images, 2)) is (stage == 0)


def test_what_sleeps_keeps_its_first_weights_and_has_no_optimizer_state(tmp_path):
    (tmp_path / "r.toml").write_text(TINY_PROGRESSIVE)
    for steps in (1, 2):
        given = (f"run.out={tmp_path / str(steps)}", f"run.steps={steps}")
        assert not train(tmp_path / "r.toml", *given, "optimizers.generator.weight_decay=0.1").exit_code
    one, two = (state(tmp_path / str(n) / "checkpoints" / f"step-000000{n}") for n in (1, 2))
    names = [n for n, _ in ProgressiveGenerator(ONE_STEP, (1, 8, 8), 4, width=8).named_parameters()]
    sleeping = asleep(ProgressiveGenerator(ONE_STEP, (1, 8, 8), 4, width=8), 0.0)
    assert sleeping == {n for n in names if n.startswith(("blocks.1.", "rgb.1."))}
    for name in names:
        for kind in ("networks", "ema"):
            key = f"{kind}/generator.safetensors:{name}"
            assert torch.equal(one[key], two[key]) is (name in sleeping)
    known = {int(key.split(":")[1].split(".")[0]) for key in two if key.startswith("optimizers/generator")}
    assert known == {i for i, name in enumerate(names) if name not in sleeping}


def test_networks_that_do_not_grow_are_refused(tmp_path):
    (tmp_path / "r.toml").write_text(TINY_PROGRESSIVE)
    given = ("networks.generator.type=dcgan_generator", f"run.out={tmp_path / 'run'}")
    result = train(tmp_path / "r.toml", *given)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "is a DCGANGenerator, but the objective wants a ProgressiveGenerator here" in result.output
