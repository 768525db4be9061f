"""EDM's preconditioning and churn against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit import Denoiser, NoiseSchedule, Prediction, Sampler, Weighting, load_plugins, walk
from toolkit_edm.denoiser import Preconditioned
from toolkit_edm.sampler import ChurnedHeun

DATA = 0.7  # the standard deviation of the data
SIGMAS = torch.tensor([0.002, 0.1, DATA, 3.0, 80.0])


def create(kind: type, schedule: NoiseSchedule | None = None, **table: Any) -> Any:
    torch.manual_seed(0)
    supplied = {"schedule": schedule, "num_classes": None, "sample_shape": (1, 4, 4)}
    return load_plugins().registry.create(kind, table, supplied=supplied, where=lambda path: "test")


@pytest.fixture(scope="module")
def path() -> NoiseSchedule:
    made: NoiseSchedule = create(NoiseSchedule, type="edm")
    return made


class Fixed(Denoiser):
    """Computes the same number everywhere, under the name of any estimate, and remembers its inputs."""

    conditional = null_class = True

    def __init__(self, schedule: NoiseSchedule, out: float, target: str = "noise") -> None:
        super().__init__()
        self.schedule, self.out, self.target = schedule, out, target
        self.seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append((x_t, t, label))
        return Prediction(self.schedule, x_t, t, **{self.target: torch.full_like(x_t, self.out)})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["noise", "x0", "velocity", "flow"])
def test_inputs_targets_and_weighted_errors_have_unit_variance_at_every_noise_level(
    path: NoiseSchedule, target: str
) -> None:
    """For data of variance DATA^2, with c_skip, c_out and c_in as they show from outside."""
    zero, one = (Fixed(path, out, target) for out in (0.0, 1.0))
    x, level = torch.ones(len(SIGMAS), 1), SIGMAS[:, None]
    skip = Preconditioned(path, zero, DATA)(x, SIGMAS).x0
    out = Preconditioned(path, one, DATA)(x, SIGMAS).x0 - skip
    ((scaled, time, _),) = zero.seen
    assert torch.allclose(scaled.square() * (DATA**2 + level**2), x)  # the variance of c_in x_t
    wanted = ((1 - skip) ** 2 * DATA**2 + skip**2 * level**2) / out**2  # of (x_0 - c_skip x_t) / c_out
    assert torch.allclose(wanted, x, rtol=1e-4)
    assert torch.allclose(time, SIGMAS.log() / 4)
    weighting: Weighting = create(Weighting, path, type="edm", sigma_data=DATA)
    assert torch.allclose(weighting.weights(SIGMAS, "x0")[:, None] * out.square(), x, rtol=1e-4)


def test_a_network_that_adds_nothing_samples_a_gaussian_of_the_datas_variance(path: NoiseSchedule) -> None:
    """c_skip x_t is the exact denoiser of N(0, DATA^2)."""
    torch.manual_seed(0)
    network = Preconditioned(path, Fixed(path, 0.0), DATA)
    for churn in (0.0, 0.2):
        sampler = ChurnedHeun(path, churn, s_max=50.0)
        points = walk(sampler, network, path, 80 * torch.randn(20_000, 1), path.grid(60, None))
        assert float(points.std()) == pytest.approx(DATA, rel=0.02)


def test_a_unet_inside_is_scaled_by_the_published_table(path: NoiseSchedule) -> None:
    options = {
        "type": "unet", "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "norm_num_groups": 4,
        "up_block_types": ["UpBlock2D"], "layers_per_block": 1, "add_attention": False,
    }  # fmt: skip
    table = {"type": "edm_preconditioned", "sigma_data": DATA, "network": {**options, "time_scale": 1.0}}
    denoiser = create(Denoiser, path, **table)
    x, sigma = torch.randn(len(SIGMAS), 1, 4, 4), SIGMAS.view(-1, 1, 1, 1)
    within = denoiser.network.model(x / (sigma**2 + DATA**2) ** 0.5, SIGMAS.log() / 4).sample
    wanted = DATA**2 / (sigma**2 + DATA**2) * x + sigma * DATA / (sigma**2 + DATA**2) ** 0.5 * within
    assert torch.allclose(denoiser(x, SIGMAS).x0, wanted, rtol=1e-5, atol=1e-6)


def test_labels_reach_the_network_which_says_whether_it_knows_them(path: NoiseSchedule) -> None:
    inner = Fixed(path, 0.0)
    network = Preconditioned(path, inner, DATA)
    label = torch.arange(len(SIGMAS))
    network(torch.ones(len(SIGMAS), 1), SIGMAS, label=label)
    assert inner.seen[0][2] is label
    assert (network.conditional, network.null_class) == (True, True)


@pytest.mark.parametrize(("s_noise", "t"), [(1.0, 2.0), (1.0, 0.05), (1.1, 2.0)])
def test_churn_raises_the_noise_level_of_the_marginal(path: NoiseSchedule, s_noise: float, t: float) -> None:
    """Data N(0, DATA^2) at t has variance DATA^2 + t^2, and after churn that of t' = (1 + churn) t."""
    torch.manual_seed(0)
    inner = Fixed(path, 0.0)
    sampler = ChurnedHeun(path, 0.4, s_noise=s_noise)
    x = math.sqrt(DATA**2 + t**2) * torch.randn(100_000, 1)
    walk(sampler, inner, path, x, (t, 0.0))
    ((raised, time, _),) = inner.seen
    assert float(time[0]) == pytest.approx(1.4 * t)
    expected = DATA**2 + t**2 + s_noise**2 * (1.4**2 - 1) * t**2
    assert float(raised.var()) == pytest.approx(expected, rel=0.02)


def test_without_churn_and_outside_its_range_it_is_heun_bit_for_bit(path: NoiseSchedule) -> None:
    heun: Sampler = create(Sampler, path, type="heun")
    network, x = Preconditioned(path, Fixed(path, 0.5), DATA), 80 * torch.randn(5, 2)
    plain = walk(heun, network, path, x, path.grid(18, None))
    samplers = (ChurnedHeun(path), ChurnedHeun(path, 0.4, 81.0), ChurnedHeun(path, 0.4, s_max=0.001))
    for sampler in samplers:
        assert torch.equal(walk(sampler, network, path, x, path.grid(18, None)), plain)
    churned = walk(ChurnedHeun(path, 0.4, 1.0, 10.0), network, path, x, path.grid(18, None))
    assert not torch.equal(churned, plain)


@pytest.mark.parametrize("other", ["rectified_flow", "vp", "cosine"])
def test_paths_whose_time_is_not_sigma_are_refused(other: str) -> None:
    schedule = create(NoiseSchedule, type=other)
    for make in (lambda: Preconditioned(schedule, Fixed(schedule, 0.0, "x0")), lambda: ChurnedHeun(schedule)):
        with pytest.raises(ValueError, match='for a schedule whose time is sigma, such as "edm"'):
            make()


def test_a_range_that_is_empty_is_refused(path: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match=r"s_min 2 must not be above s_max 1"):
        ChurnedHeun(path, 0.1, 2.0, 1.0)
