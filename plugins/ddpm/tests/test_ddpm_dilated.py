"""The dilated denoiser against its written description, and its size."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit import Chain
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.check import check_recipe
from toolkit_ddpm.dilated import DilatedConv

T = torch.tensor([0, 1, 500, 999])
# sin and cos of t 10000^(-i / 3), i = 0..3: as in the TensorFlow original of DDPM, for width 8.
EMBEDDING = [
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
    [0.8414709, 0.0463992, 0.0021544, 0.0001, 0.5403023, 0.9989229, 0.9999976, 0.9999999],
    [-0.4677718, -0.9379933, 0.8806428, 0.0499791, -0.8838492, -0.3466532, 0.4737807, 0.9987502],
    [-0.0264607, 0.6848642, 0.8356485, 0.0997339, 0.9996498, -0.7286706, -0.5492645, 0.9950141],
]  # fmt: skip


def make(shape: tuple[int, ...] = (3, 12, 12), **options: int) -> DilatedConv:
    torch.manual_seed(0)
    return DilatedConv(Chain(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)), shape, **options)


def described(p: dict[str, Tensor], x_t: Tensor, embedding: Tensor) -> Tensor:
    h = F.conv2d(x_t, p["first.weight"], p["first.bias"], padding=3)
    time = F.silu(embedding @ p["time.1.weight"].T + p["time.1.bias"])
    time = (time @ p["time.3.weight"].T + p["time.3.bias"])[:, :, None, None]
    for i, d in enumerate((1, 1, 1, 3, 3, 9, 9, 27)):
        y = h + time
        h = y + F.conv2d(y, p[f"layers.{i}.conv.weight"], p[f"layers.{i}.conv.bias"], padding=d, dilation=d)
        if i > 0:
            weight, bias = p[f"layers.{i}.after.0.weight"], p[f"layers.{i}.after.0.bias"]
            h = F.silu(F.group_norm(h, 8, weight, bias))
    return F.conv2d(h, p["last.weight"], p["last.bias"], padding=1)


@pytest.mark.parametrize(("shape", "count"), [((3, 32, 32), 4_900_611), ((1, 28, 28), 4_870_913)])
def test_it_has_the_size_of_the_notebooks_network(shape: tuple[int, ...], count: int) -> None:
    assert sum(p.numel() for p in make(shape).parameters()) == count


def test_it_computes_what_is_written() -> None:
    denoiser = make(width=8)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_t = torch.randn(4, 3, 12, 12)
    expected = described(denoiser.state_dict(), x_t, torch.tensor(EMBEDDING))
    assert torch.allclose(denoiser(x_t, T).noise, expected, rtol=1e-3, atol=1e-4)


def test_points_are_refused() -> None:
    with pytest.raises(ValueError, match="works on images"):
        make((2,))


def test_it_trains_saves_and_samples_with_the_legacy_sampler_too() -> None:
    stated = (
        "networks.denoiser.type=dilated_conv",
        "networks.denoiser.width=16",
        "sampler.type=clamped_ancestral",
    )
    said: list[str] = []
    check_recipe(resolve(read_layers("quickstart", stated), plugins.load().registry), said.append)
    assert said[-1] == "saved and loaded the pipeline: it samples the same"
