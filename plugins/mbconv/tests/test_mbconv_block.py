"""The block against its written description, computed without torch's convolutions and normalisation."""

import pytest
import torch
from torch import Tensor

from toolkit_mbconv.block import MBConv

B, SIDE, GROUPS, EPS, TIME = 2, 5, 2, 1e-5, 6


def make(into: int, out: int, *, expansion: int = 3, se: float = 0.5, dropout: float = 0.0) -> MBConv:
    torch.manual_seed(0)
    block = MBConv(
        into, out, TIME, expansion=expansion, se=se, groups=GROUPS, eps=EPS, dropout=dropout
    ).double()
    for parameter in block.parameters():  # no factor that is 1, no bias that is 0
        torch.nn.init.normal_(parameter)
    return block


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    grouped = x.reshape(len(x), GROUPS, -1)
    mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
    normal = ((grouped - mean) / (variance + EPS).sqrt()).view_as(x)
    return normal * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x)


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    padded = torch.zeros(*x.shape[:2], SIDE + 2, SIDE + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    out = torch.zeros_like(x)
    for row in range(3):
        for column in range(3):
            kernel = weight[:, 0, row, column].view(-1, 1, 1)
            out += kernel * padded[:, :, row : row + SIDE, column : column + SIDE]
    return out


def described(p: dict[str, Tensor], x: Tensor, time: Tensor) -> Tensor:
    h = pointwise(silu(group_norm(x, p["norm1.weight"], p["norm1.bias"])), p["conv1.weight"])
    h = h + (silu(time) @ p["time.weight"].T + p["time.bias"])[:, :, None, None]
    h = depthwise(silu(group_norm(h, p["norm2.weight"], p["norm2.bias"])), p["depthwise.weight"])
    h = silu(group_norm(h, p["norm3.weight"], p["norm3.bias"]))
    squeezed = silu(h.mean((2, 3)) @ p["excite.squeeze.weight"].T)
    gate = 1 / (1 + (-(squeezed @ p["excite.excite.weight"].T)).exp())
    out = pointwise(h * gate[:, :, None, None], p["project.weight"])
    if "shortcut.weight" in p:
        return out + pointwise(x, p["shortcut.weight"]) + p["shortcut.bias"].view(-1, 1, 1)
    return out + x


@pytest.mark.parametrize(("into", "out"), [(4, 4), (4, 6), (8, 4)])
def test_a_block_computes_what_is_written(into: int, out: int) -> None:
    block = make(into, out)
    x, time = torch.randn(B, into, SIDE, SIDE).double(), torch.randn(B, TIME).double()
    assert block(x, time).shape == (B, out, SIDE, SIDE)
    assert torch.allclose(block(x, time), described(block.state_dict(), x, time), rtol=1e-10, atol=1e-10)


def test_squeeze_and_excitation_is_as_wide_as_a_fraction_of_what_enters_the_block() -> None:
    block = make(10, 4, expansion=4, se=0.25)
    assert (block.excite.squeeze.in_features, block.excite.squeeze.out_features) == (40, 2)


def test_only_time_and_a_shortcut_of_other_width_have_a_bias() -> None:
    biases = {
        name for name, _ in make(4, 6).named_parameters() if name.endswith("bias") and "norm" not in name
    }
    assert biases == {"time.bias", "shortcut.bias"}


def test_dropout_acts_on_the_branch_alone() -> None:
    block = make(4, 4, dropout=1.0)
    x = torch.randn(B, 4, SIDE, SIDE).double()
    assert torch.equal(block(x, torch.randn(B, TIME).double()), x)


def test_channels_that_do_not_fall_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by num_groups"):
        make(5, 4)
