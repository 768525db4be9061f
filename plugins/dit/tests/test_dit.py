"""DiT against diffusers' own, and by its derivatives, its beginning and its refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit import NoiseSchedule, load_plugins
from toolkit_dit.denoiser import DiT
from toolkit_dit.transformer import Transformer

SMALL = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8}
CHAIN = {"type": "linear", "num_train_timesteps": 100, "beta_start": 1e-4, "beta_end": 0.1}


def path(**table: Any) -> NoiseSchedule:
    table = table or {"type": "rectified_flow"}
    made: NoiseSchedule = load_plugins().registry.create(NoiseSchedule, table, supplied={}, where=str)
    return made


def stirred(network: DiT) -> DiT:
    """The network with weights that are nowhere 0, as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def dit(shape: tuple[int, ...] = (1, 8, 8), classes: int | None = None, **options: Any) -> DiT:
    torch.manual_seed(0)
    return DiT(path(), shape, classes, **{"prediction": "flow", **SMALL, **options})


def inputs(shape: tuple[int, ...] = (1, 8, 8), n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t and s."""
    generator = torch.Generator().manual_seed(2)
    t = torch.rand(n, generator=generator)
    return torch.randn(n, *shape, generator=generator), t, t * torch.rand(n, generator=generator)


def test_its_first_output_is_exactly_zero() -> None:
    x, t, s = inputs()
    assert torch.equal(dit(flow_map=True)(x, t, s=s).flow, torch.zeros_like(x))


@pytest.mark.slow  # diffusers imports every transformer
def test_with_its_weights_it_is_the_dit_of_diffusers() -> None:
    """Which embeds times and labels in every block, here alike, and draws for its label dropout."""
    from diffusers import DiTTransformer2DModel

    ours = stirred(dit((4, 8, 8), 10, conditional=True, null_class=True, learned_variance=True)).model
    theirs = DiTTransformer2DModel(
        in_channels=4, out_channels=8, sample_size=8, num_embeds_ada_norm=10, norm_eps=1e-6, **SMALL
    ).eval()
    state = dict(ours.state_dict())
    embedding = {
        "timestep_embedder.linear_1": "time.1.linear_1",
        "timestep_embedder.linear_2": "time.1.linear_2",
        "class_embedder.embedding_table": "label",
    }
    renamed = {"pos_embed.proj": "proj"}
    renamed |= {
        f"transformer_blocks.{i}.norm1.emb.{name}": source
        for i in range(SMALL["num_layers"])
        for name, source in embedding.items()
    }
    for name in theirs.state_dict():
        module, _, part = name.rpartition(".")
        state.setdefault(name, state.get(f"{renamed.get(module)}.{part}", torch.empty(0)))
    theirs.load_state_dict({name: state[name] for name in theirs.state_dict()})
    x, t, label = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 20.0, 999.0]), torch.tensor([3, 10, 0])
    with torch.no_grad():
        expected = theirs(x, t, label).sample
        assert torch.allclose(ours(x, t, None, label), expected, atol=1e-5)
    assert float(expected.std()) > 0.1


def test_the_largest_has_as_many_parameters_as_the_authors_network() -> None:
    """DiT-XL/2 at 256x256: 675,129,632 as their code prints it (from memory), 294,912 of them positions."""
    with torch.device("meta"):
        network = Transformer((4, 32, 32), 8, 2, 28, 16, 72, classes=1001, second_time=False, dropout=0.0)
    assert sum(p.numel() for p in network.parameters()) == 675_129_632 - 256 * 1152


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 4, 8), (3, 8, 4)])
def test_patches_return_to_where_they_came_from(shape: tuple[int, int, int]) -> None:
    """Without blocks a patch of the output depends on that patch of the input alone."""
    network = stirred(dit(shape)).model
    network.transformer_blocks = torch.nn.ModuleList()
    x, t, _ = inputs(shape)
    x.requires_grad_()
    network(x, t, None, None)[:, :, 2:4, 0:2].sum().backward()
    touched = x.grad.abs().sum((0, 1)) > 0
    assert touched[2:4, 0:2].all() and int(touched.sum()) == 4


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 8), (1, 8, 4)])
def test_every_patch_has_a_place_of_its_own(shape: tuple[int, int, int]) -> None:
    places = dit(shape).model.places
    assert len(places) == shape[1] * shape[2] // 4
    assert float((torch.cdist(places, places) + torch.eye(len(places))).min()) > 0.1


def test_its_derivative_along_a_way_is_that_of_differences() -> None:
    network, (x, t, s) = stirred(dit(flow_map=True, time_scale=10.0)), inputs()
    v = torch.randn_like(x)

    def output(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t, s=s).flow

    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
        _, exact = torch.func.jvp(output, (x, t), (v, torch.ones_like(t)))
    h = 3e-3
    difference = (output(x + h * v, t + h) - output(x - h * v, t - h)) / (2 * h)
    assert torch.allclose(exact, difference, rtol=0, atol=2e-3 * exact.detach().abs().max().item())


def test_a_flow_map_without_s_gives_the_slope_at_t() -> None:
    network = stirred(dit(flow_map=True))
    x, t, s = inputs()
    assert torch.equal(network(x, t).flow, network(x, t, s=t).flow)
    assert not torch.allclose(network(x, t).flow, network(x, t, s=s).flow)


def test_a_network_that_is_no_flow_map_ignores_s() -> None:
    network = stirred(dit())
    x, t, s = inputs()
    assert torch.equal(network(x, t).flow, network(x, t, s=s).flow)


def test_times_are_scaled_by_1000_on_continuous_paths_and_not_on_chains() -> None:
    x, _, _ = inputs()
    flow, scaled = stirred(dit()), stirred(dit(time_scale=1000.0))
    torch.manual_seed(0)
    chain = stirred(DiT(path(**CHAIN), (1, 8, 8), None, **SMALL))
    t = torch.tensor([0.009, 0.040, 0.099])
    assert torch.equal(flow(x, t).flow, scaled(x, t).flow)
    index = torch.tensor([9, 40, 99])
    assert torch.allclose(chain(x, index).noise, flow(x, t).flow, atol=1e-4)


@pytest.mark.parametrize(("options", "says"), [
    ({"shape": (2,)}, r"a DiT works on images \(channels, height, width\), not on \(2,\)"),
    ({"patch_size": 3}, "patch_size = 3 must divide both sides of 8x8 images"),
    ({"num_attention_heads": 1, "attention_head_dim": 6}, "attention_head_dim = 6 must be a multiple of 4"),
    ({"conditional": True}, "conditional = true needs labelled data"),
    ({"classes": 10, "null_class": True}, "null_class = true is for a network with conditional = true"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dit(**options)


def test_a_path_at_whose_end_the_noise_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the noise says nothing of x_0"):
        dit(prediction="epsilon")
