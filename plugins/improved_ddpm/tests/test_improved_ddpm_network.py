"""The network of improved_ddpm_cifar: the authors' initial weights, time and previews."""

from typing import Any

import pytest
import torch

from toolkit import Chain
from toolkit.hf.unet import UNet
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit_improved_ddpm.importer import RUNS, official_parameters
from toolkit_improved_ddpm.schedule import cosine_betas


def network(**options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(
        Chain([0.1] * 4), (3, 16, 16), None, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    ).requires_grad_(False)  # fmt: skip


def recipe() -> dict[str, Any]:
    return resolve(read_layers("improved_ddpm_cifar"), plugins.load().registry).tables


def test_branches_and_network_begin_at_exactly_zero_and_all_else_as_torch_does() -> None:
    zero_last, torchs = network(init="zero_last"), network(init="torch")
    default = official_parameters(torchs.model)
    zero = set()
    for name, parameter in official_parameters(zero_last.model).items():
        if torch.equal(parameter, torch.zeros_like(parameter)) and not name.endswith(
            ("norm.bias", ".0.bias")
        ):
            zero.add(name.rsplit(".", 1)[0])
        else:
            assert torch.equal(parameter, default[name]), name
    assert zero == {
        name.rsplit(".", 1)[0]
        for name in default
        if "out_layers.3" in name or "proj_out" in name or name.startswith("out.2")
    }
    assert not zero_last(torch.randn(2, 3, 16, 16), torch.tensor([0, 3])).noise.any()


def test_the_recipe_is_the_published_run() -> None:
    tables = recipe()
    stated, (shapes, settings) = tables["networks"]["denoiser"], RUNS["cifar10"]
    assert tuple(stated["block_out_channels"]) == shapes.block_out_channels
    assert stated["layers_per_block"] == shapes.layers_per_block and stated["learned_variance"]
    assert {256 // stated["attention_head_dim"]} == {settings["num_heads"]}  # at both levels with attention
    assert tables["schedule"]["num_train_timesteps"] == settings["num_train_timesteps"]
    assert stated["time_scale"] == 1000 / settings["num_train_timesteps"] and settings["rescale_timesteps"]
    assert stated["init"] == "zero_last"


def test_its_previews_keep_the_timesteps_of_the_authors_stride() -> None:
    """Fractional strides from the first timestep to the last, rounded to the nearest."""
    tables = recipe()
    steps, spacing = tables["samples"]["num_inference_steps"], tables["sampler"]["spacing"]
    kept = cosine_betas(4000).grid(steps, spacing)[:-1]
    expected = [round(i * 3999 / (steps - 1)) for i in range(steps)]
    assert list(reversed([int(t) for t in kept])) == expected


def test_every_attention_has_the_same_number_of_heads_however_wide() -> None:
    """attention_heads = 4 is attention_head_dim = 16 where levels with attention have 64 channels."""
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0, 3])
    by_width, by_number = network(attention_head_dim=16), network(attention_heads=4)
    assert torch.equal(by_width(x, t).noise, by_number(x, t).noise)
    assert not torch.allclose(by_width(x, t).noise, network(attention_heads=2)(x, t).noise)
    assert by_number.unet() is None  # plain diffusers would take another number of heads
    with pytest.raises(ValueError, match="attention_heads = 3 must divide the channels"):
        network(attention_heads=3)
