"""The architectures of the thesis: ddpm_cifar's network, and recipes that are layers with another one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from torch import nn

from toolkit import Chain
from toolkit.hf.unet import UNet
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins

ARCHITECTURES = ("deepres1", "shallowres1", "shallowres2", "mbconv64", "mbconv96")
# The thesis's embedding of t = 1 and 500 in 8 channels: sin and cos in turn, 10000^(-i / 4).
INTERLEAVED = [
    [0.8414709, 0.5403023, 0.0998334, 0.9950041, 0.0099998, 0.9999500, 0.0009999, 0.9999995],
    [-0.4677718, -0.8838492, -0.2623748, 0.9649660, -0.9589242, 0.2836621, 0.4794255, 0.8775825],
]  # fmt: skip
OTHER_METHOD = """
extends = ["ddpm_cifar"]
[run]
steps = 7
[objective]
type = "other"
k = 2
"""


def tables(source: str | Path, *stated: str) -> dict[str, Any]:
    return resolve(read_layers(source, stated), plugins.load().registry).tables


def test_the_network_of_ddpm_cifar_is_the_theses_default() -> None:
    stated = tables("ddpm_cifar")["networks"]["denoiser"]
    expected = {
        "type": "unet", "prediction": "epsilon", "learned_variance": False, "conditional": False,
        "init": "xavier",
        "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": None, "norm_num_groups": 32, "norm_eps": 1e-5, "downsample_padding": 1,
        "flip_sin_to_cos": False, "freq_shift": 0, "dropout": 0.1, "resnet_time_scale_shift": "default",
        "mid_block_type": "UNetMidBlock2D", "add_attention": True, "time_embedding_type": "positional",
    }  # fmt: skip
    assert {key: stated[key] for key in expected} == expected


def test_its_time_embedding_is_the_theses_in_another_order_of_channels() -> None:
    stated = tables("ddpm_cifar")["networks"]["denoiser"]
    ours = Timesteps(8, stated["flip_sin_to_cos"], stated["freq_shift"])(torch.tensor([1, 500]))
    theirs = torch.tensor(INTERLEAVED)
    assert torch.allclose(ours, torch.cat([theirs[:, 0::2], theirs[:, 1::2]], 1), atol=1e-5)


def two_levels(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = UNet(
        Chain([0.1, 0.2]), (3, 8, 8), None, init="xavier", block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **options,
    ).model.requires_grad_(False)  # fmt: skip
    return model


def test_its_initial_weights_are_ddpms() -> None:
    model: Any = two_levels()
    resnet, attention = model.mid_block.resnets[0], model.mid_block.attentions[0]
    for layer in (model.conv_in, resnet.conv1, resnet.time_emb_proj, attention.to_q):
        bound = (6 / sum(nn.init._calculate_fan_in_and_fan_out(layer.weight))) ** 0.5
        assert bound * 0.98 < float(layer.weight.abs().max()) <= bound
        assert float(layer.bias.abs().max()) == 0
    for layer in (model.conv_out, resnet.conv2, attention.to_out[0]):
        bound = 1e-5 * (6 / sum(nn.init._calculate_fan_in_and_fan_out(layer.weight))) ** 0.5
        assert bound * 0.98 < float(layer.weight.abs().max()) <= bound


def test_attention_of_the_thesis_ends_with_gain_1_and_nothing_else_differs() -> None:
    hos, theses = two_levels().state_dict(), two_levels(attention_out_gain=1.0).state_dict()
    (end,) = [name for name in hos if name.endswith("to_out.0.weight")]
    assert torch.allclose(theses.pop(end), hos.pop(end) * 1e5)
    assert all(torch.equal(theses[name], tensor) for name, tensor in hos.items())


def test_a_gain_at_the_end_of_attention_is_refused_where_it_would_have_no_effect() -> None:
    with pytest.raises(ValueError, match='attention_out_gain = 1.0 is for init = "xavier", not "torch"'):
        UNet(
            Chain([0.1, 0.2]), (3, 8, 8), None, init="torch", attention_out_gain=1.0,
            block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        )  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_changes_the_network_and_nothing_else(name: str) -> None:
    default, changed = tables("ddpm_cifar"), tables(f"ddpm_cifar_{name}")
    assert changed.pop("networks") != default.pop("networks")
    assert changed == default


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("first", [True, False])
def test_an_architecture_combines_with_another_recipe_in_either_order(
    name: str, first: bool, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text(OTHER_METHOD)
    parents = [f"ddpm_cifar_{name}", "other.toml"]
    (tmp_path / "both.toml").write_text(f"extends = {parents if first else parents[::-1]}\n")
    merged = read_layers(tmp_path / "both.toml").values
    assert merged["networks"] == read_layers(f"ddpm_cifar_{name}").values["networks"]
    assert merged["objective"] == {"type": "other", "k": 2} and merged["run"]["steps"] == 7


def test_options_of_a_network_that_another_architecture_replaces_are_dropped_with_a_note(
    tmp_path: Path,
) -> None:
    learned = 'extends = ["ddpm_cifar"]\n[networks.denoiser]\nlearned_variance = true\n'
    (tmp_path / "learned.toml").write_text(learned)
    for parents, kept in (
        (["ddpm_cifar_mbconv64", "learned.toml"], True),
        (["learned.toml", "ddpm_cifar_mbconv64"], False),
    ):
        (tmp_path / "both.toml").write_text(f"extends = {parents}\n")
        layers = read_layers(tmp_path / "both.toml")
        assert layers.values["networks"]["denoiser"].get("learned_variance", False) == kept
        assert any("learned_variance" in note for note in layers.notes) != kept
