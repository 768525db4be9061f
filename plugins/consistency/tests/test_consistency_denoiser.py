"""The preconditioning, against its formula."""

import pytest
import torch
from consistency_parts import Estimates, create, edm

from toolkit import Denoiser, NoiseSchedule, Sampler, walk
from toolkit_consistency.denoiser import ConsistencyPreconditioned

DATA = 0.7
SIGMAS = torch.tensor([0.002, 0.1, DATA, 3.0, 80.0])


def constant(path: NoiseSchedule, out: float) -> Estimates:
    return Estimates(path, lambda x, sigma: torch.full_like(x, out))


@pytest.mark.parametrize("lowest", [0.002, 0.1])
def test_at_the_lowest_noise_level_it_returns_its_input_bit_for_bit(lowest: float) -> None:
    path = edm(sigma_min=lowest)
    f = ConsistencyPreconditioned(path, constant(path, 1e6), DATA)
    x = torch.randn(1000, 1)
    assert torch.equal(f(x, torch.full((1000,), lowest)).x0, x)


def test_it_is_the_published_formula_around_what_the_network_computes() -> None:
    path, sigma, x = edm(), SIGMAS[:, None], torch.randn(5, 1)
    inner = constant(path, 2.0)
    found = ConsistencyPreconditioned(path, inner, DATA)(x, SIGMAS).x0
    skip = DATA**2 / ((sigma - 0.002) ** 2 + DATA**2)
    out = DATA * (sigma - 0.002) / (sigma**2 + DATA**2).sqrt()
    assert torch.allclose(found, skip * x + 2 * out)
    ((scaled, time, _),) = inner.seen
    assert torch.allclose(scaled, x / (sigma**2 + DATA**2).sqrt())
    assert torch.allclose(time, SIGMAS.log() / 4)


def test_a_network_that_adds_nothing_samples_by_one_call_and_by_two() -> None:
    """f = c_skip x: nearly 0 from pure noise, and half of x at sigma = sigma_data."""
    path = edm()
    f = ConsistencyPreconditioned(path, constant(path, 0.0), DATA)
    sampler: Sampler = create(Sampler, path, type="consistency", intermediate_times=[DATA])
    torch.manual_seed(0)
    x = 80 * torch.randn(20_000, 1)
    one, two = (walk(sampler, f, path, x, sampler.grid(path, n, None)) for n in (1, 2))
    assert float(one.detach().std()) == pytest.approx(DATA**2 / 80, rel=0.02)
    assert float(two.detach().std()) == pytest.approx(DATA / 2, rel=0.02)


def test_it_passes_on_what_the_network_inside_knows_of_labels() -> None:
    path = edm()
    inner = constant(path, 0.0)
    inner.conditional = True
    label = torch.arange(5)
    f = ConsistencyPreconditioned(path, inner, DATA)
    f(torch.ones(5, 1), SIGMAS, label=label)
    assert inner.seen[0][2] is label and (f.conditional, f.null_class) == (True, False)


@pytest.mark.slow  # to import what UNets are made of takes seconds
def test_weights_have_the_names_of_edms_so_that_a_student_starts_as_its_teacher() -> None:
    unet = {
        "type": "unet", "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "norm_num_groups": 4,
        "up_block_types": ["UpBlock2D"], "layers_per_block": 1, "add_attention": False,
    }  # fmt: skip
    kinds = ("edm_preconditioned", "consistency_preconditioned")
    teacher, student = (create(Denoiser, edm(), (1, 4, 4), type=kind, network=unet) for kind in kinds)
    assert list(teacher.state_dict()) == list(student.state_dict())


@pytest.mark.parametrize("other", ["rectified_flow", "vp", "cosine"])
def test_paths_whose_time_is_not_sigma_are_refused(other: str) -> None:
    path = create(NoiseSchedule, type=other)
    with pytest.raises(ValueError, match='for a schedule whose time is sigma, such as "edm"'):
        ConsistencyPreconditioned(path, constant(path, 0.0))
