"""The denoiser of MBConv blocks: what is replaced, how it begins, what it takes."""

import subprocess
import sys

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from mbconv_pipelines import network
from torch import nn

from toolkit.diffusion.continuous import RectifiedFlow
from toolkit.registry import load as plugins
from toolkit_mbconv.block import MBConv

X, T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 17])


def blocks(init: str) -> list[MBConv]:
    return [module for module in network(init=init).modules() if isinstance(module, MBConv)]


def branch(block: MBConv) -> float:
    """How large what a block adds to its shortcut is, to standard normal x and time."""
    with torch.no_grad():
        x, time = torch.randn(2, block.norm1.num_channels, 4, 4), torch.randn(2, block.time.in_features)
        return float((block(x, time) - block.shortcut(x)).abs().max())


def test_every_residual_block_is_replaced_and_nothing_else() -> None:
    kinds = [type(module) for module in network().modules()]
    assert ResnetBlock2D not in kinds
    assert kinds.count(MBConv) == 2 * 1 + 2 + 2 * 2  # down, middle, up
    assert kinds.count(Attention) == 1 + 1 + 2


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 16)])
def test_the_prediction_has_the_shape_of_the_images(shape: tuple[int, ...]) -> None:
    prediction = network(shape)(torch.randn(2, *shape), T)
    assert prediction.noise.shape == prediction.x0.shape == (2, *shape)
    assert prediction.variance_fraction is None


def test_zero_last_begins_every_block_as_its_shortcut_exactly() -> None:
    assert [branch(block) for block in blocks("zero_last")] == [0] * 8


def test_xavier_begins_every_block_nearly_as_its_shortcut_and_torch_does_not() -> None:
    assert all(0 < branch(block) < 1e-4 for block in blocks("xavier"))
    assert all(branch(block) > 0.01 for block in blocks("torch"))


@pytest.mark.parametrize("init", ["zero_last", "torch", "xavier"])
def test_all_but_the_blocks_begins_as_ho_et_al_do(init: str) -> None:
    model = network(init=init).model
    ends = [model.conv_out, *(m.to_out[0] for m in model.modules() if isinstance(m, Attention))]
    assert all(0 < end.weight.abs().max().item() < 1e-4 for end in ends)
    outside = [model.conv_in, model.time_embedding.linear_1, model.up_blocks[0].upsamplers[0].conv]
    for layer in outside:
        fan = sum(nn.init._calculate_fan_in_and_fan_out(layer.weight))
        assert layer.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.1)
        assert layer.bias.abs().max().item() == 0


def test_other_predictions_learned_variance_and_labels_work_as_in_the_cores_unet() -> None:
    learned = network(learned_variance=True, init="torch")(X, T)
    assert learned.variance_fraction is not None and learned.variance_fraction.shape == X.shape
    clean = network(prediction="sample")
    assert torch.equal(clean(X, T).x0, clean.model(X, T).sample)
    # Blocks that begin as their shortcuts let neither time nor label in; and what the network ends with
    # makes the difference small.
    conditional = network(classes=5, conditional=True, init="torch")
    assert not torch.equal(conditional(X, T, label=T % 5).noise, conditional(X, T, label=(T + 1) % 5).noise)


def test_on_a_continuous_path_it_sees_a_thousandfold_time() -> None:
    flow = network(path=RectifiedFlow(), prediction="flow", init="torch").eval()
    t = torch.tensor([0.1, 0.9])
    assert torch.equal(flow(X, t).flow, flow.model(X, 1000 * t).sample)


def test_it_takes_the_options_of_the_cores_unet_but_those_of_its_blocks() -> None:
    registry = plugins.load().registry.copy()
    names = {
        n: {option.name for option in registry.component(nn.Module, n).options}
        for n in ("unet", "mbconv_unet")
    }
    gone = {
        "act_fn", "resnet_time_scale_shift", "mid_block_scale_factor", "downsample_type", "upsample_type",
        "attention_heads", "attention_out_gain",
    }  # fmt: skip
    assert names["unet"] - names["mbconv_unet"] == gone
    assert names["mbconv_unet"] - names["unet"] == {"expansion", "se"}


@pytest.mark.parametrize(("shape", "options", "named"), [
    ((2,), {}, "works on images"),
    ((3, 9, 9), {}, "must be divisible by 2"),
    ((3, 8, 8), {"block_out_channels": (8, 18)}, "norm_num_groups = 4 must divide"),
    ((3, 8, 8), {"conditional": True}, "needs labelled data"),
])  # fmt: skip
def test_what_cannot_be_built_is_refused(shape, options, named) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=named):
        network(shape, **options)


def test_channels_last_changes_the_memory_order_and_not_the_prediction() -> None:
    usual, last = network(init="torch"), network(init="torch").to(memory_format=torch.channels_last)
    weight = last.model.mid_block.resnets[0].project.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(usual(X, T).noise, last(X, T).noise, atol=1e-5)


@pytest.mark.slow
def test_importing_the_plugin_does_not_import_diffusers() -> None:
    code = "import sys, toolkit_mbconv; print('diffusers' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )
