"""Paths in continuous time, and every sampler on every path, against a Gaussian's exact denoiser.

The oracles are the posterior mean of N(m, v I), the exact map of its probability flow,
the order at which Euler's and Heun's methods converge, and diffusers' own schedulers step for step.
"""

import math

import pytest
import torch
from torch import Tensor

from toolkit import Chain, Continuous, Denoiser, NoiseSchedule, Prediction, Sampler, walk
from toolkit.diffusion.chain import linear
from toolkit.diffusion.continuous import EDM, VP, Cosine, RectifiedFlow
from toolkit.diffusion.sampler import count_calls
from toolkit.diffusion.samplers import DDIM, Ancestral, Consistency, DPMSolver, Euler, Heun
from toolkit.hf.schedulers import DiffusersSampler

MEAN, STD = 0.3, 0.5
PATHS: dict[str, NoiseSchedule] = {
    "chain": linear(1000, 1e-4, 0.02), "rectified_flow": RectifiedFlow(), "edm": EDM(), "vp": VP(),
    "cosine": Cosine(),
}  # fmt: skip
CONTINUOUS = {name: path for name, path in PATHS.items() if isinstance(path, Continuous)}


class Exact(Denoiser):
    """E[x_0 | x_t] for data N(MEAN, STD^2); as a flow map, the exact x_s of the probability flow.

    Computed in the type of x_t, so that an order of convergence can be measured in float64.
    """

    def __init__(self, path: NoiseSchedule, *, flow_map: bool = False) -> None:
        super().__init__()
        self.path, self.flow_map = path, flow_map

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        times = t if self.path.discrete else t.double()
        shape = (-1, *[1] * (like.ndim - 1))
        return self.path.alpha(times).view(shape), self.path.sigma(times).view(shape)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        alpha, sigma = self.levels(t, x_t)
        total = alpha**2 * STD**2 + sigma**2
        if self.flow_map and s is not None and not torch.equal(s, t):
            alpha_s, sigma_s = self.levels(s, x_t)
            scale = ((alpha_s**2 * STD**2 + sigma_s**2) / total).sqrt()
            x_s = alpha_s * MEAN + scale * (x_t - alpha * MEAN)
            x0 = (sigma * x_s - sigma_s * x_t) / (alpha_s * sigma - alpha * sigma_s)
        else:
            x0 = MEAN + STD**2 * alpha / total * (x_t - alpha * MEAN)
        return Prediction(self.path, x_t, t, x0=x0)


def sampled(sampler: Sampler, path: NoiseSchedule, n: int, **exact: bool) -> tuple[float, float]:
    """Mean and standard deviation of samples, exactly: the walk of a deterministic sampler is affine in x."""
    x = path.prior_std * torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    times = sampler.grid(path, n, None)
    low, high = walk(sampler, Exact(path, **exact), path, x, times).flatten().tolist()
    return low, high - low


@pytest.mark.parametrize("name", PATHS)
def test_a_network_that_says_noise_velocity_or_flow_says_the_same_x0(name: str) -> None:
    path = PATHS[name]
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 5, 3).unbind()
    inner = [t for t in path.grid(7, None) if path.clean < t < path.noisiest][:5]
    t = torch.tensor(inner, dtype=torch.int64 if path.discrete else torch.float32)
    x_t = path.diffuse(x0[: len(t)], t, noise[: len(t)])
    truth = Prediction(path, x_t, t, x0=x0[: len(t)])
    for target in ("noise", "velocity", *(["flow"] if name in CONTINUOUS else [])):
        again = Prediction(path, x_t, t, **{target: truth.of(target)})  # type: ignore[arg-type]
        assert torch.allclose(again.x0, truth.x0, atol=2e-3), target
        assert torch.allclose(again.noise, truth.noise, atol=2e-3), target


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_flow_is_the_slope_of_the_path(name: str) -> None:
    path = CONTINUOUS[name]
    x0, noise = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    t, h = 0.4 * path.noisiest, 1e-5 * path.noisiest
    slope = (path.diffuse(x0, t + h, noise) - path.diffuse(x0, t - h, noise)) / (2 * h)
    flow = Prediction(path, path.diffuse(x0, t, noise), t, x0=x0).flow
    assert torch.allclose(flow, slope, rtol=1e-5)


def test_a_flow_on_a_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="which a chain is not"):
        Prediction(PATHS["chain"], torch.zeros(1, 2), torch.tensor([3]), flow=torch.zeros(1, 2))


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize(("sampler", "order"), [(Euler, 1), (Heun, 2)])
def test_the_error_falls_as_the_order_of_the_method(
    name: str, sampler: type[Euler] | type[Heun], order: int
) -> None:
    """Measured on the standard deviation of the samples, halving the steps' length twice."""
    path = CONTINUOUS[name]
    # The cosine path turns by the same angle in each step, where Euler's error cancels but for its square.
    errors = [abs(sampled(sampler(path), path, n)[1] - exact_std(path)) for n in (64, 128, 256)]
    measured = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert measured[-1] > order - 0.25, (errors, measured)


def exact_std(path: NoiseSchedule) -> float:
    """Of samples that start from N(0, prior_std^2) and not from the data's own distribution there."""
    end = torch.tensor(path.noisiest, dtype=torch.float64)
    alpha, sigma = float(path.alpha(end)), float(path.sigma(end))
    return STD * path.prior_std / math.sqrt(alpha**2 * STD**2 + sigma**2)


def test_euler_and_heun_on_rectified_flow_have_the_published_errors() -> None:
    """With 10, 20 and 40 steps, of a standard deviation of 0.5 (the reference's own measurement)."""
    path = RectifiedFlow()
    euler = [sampled(Euler(path), path, n)[1] for n in (10, 20, 40)]
    heun = [sampled(Heun(path), path, n)[1] for n in (10, 20, 40)]
    assert euler == pytest.approx([0.4315, 0.4634, 0.4819], abs=6e-3)
    assert heun == pytest.approx([0.4905, 0.4981, 0.5002], abs=6e-3)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("steps", [1, 3])
def test_an_exact_flow_map_is_right_in_any_number_of_plain_steps(name: str, steps: int) -> None:
    path = PATHS[name]
    _, std = sampled(DDIM(path), path, steps, flow_map=True)
    first = path.grid(steps, None)[0]
    levels = path.alpha(torch.tensor(first)), path.sigma(torch.tensor(first))
    alpha, sigma = (float(level) for level in levels)
    # From x of standard deviation prior_std at the first time, whatever the data's is there.
    assert std == pytest.approx(STD / math.sqrt(alpha**2 * STD**2 + sigma**2) * path.prior_std, rel=1e-4)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("sampler", [Euler, Heun, DPMSolver])
def test_solvers_of_the_equation_ask_a_flow_map_for_the_slope_and_not_for_the_way_to_s(
    name: str, sampler: type[Euler]
) -> None:
    """Else the slope would be that of a chord, and the method not the one it is called."""
    path = CONTINUOUS[name]
    mapped = sampled(sampler(path), path, 5, flow_map=True)
    assert mapped == sampled(sampler(path), path, 5)


def test_ddim_and_euler_are_one_on_rectified_flow() -> None:
    path, x = RectifiedFlow(), torch.randn(4, 3)
    times = path.grid(7, None)
    ddim, euler = (walk(sampler, Exact(path), path, x, times) for sampler in (DDIM(path), Euler(path)))
    assert torch.allclose(ddim, euler, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_multistep_consistency_sampling_keeps_the_distribution_of_an_exact_map(name: str) -> None:
    path = PATHS[name]
    torch.manual_seed(0)
    times = path.grid(4, None)
    x = path.diffuse(MEAN + STD * torch.randn(50_000, 1), times[0], torch.randn(50_000, 1))
    images = walk(Consistency(path), Exact(path, flow_map=True), path, x, times)
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(images.std()) == pytest.approx(STD, rel=0.01)


@pytest.mark.parametrize("table", ["posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance"])
def test_the_posterior_by_transitions_is_the_published_table_of_a_chain(table: str) -> None:
    chain = linear(1000, 1e-4, 0.02)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for t in (1, 2, 10, 500, 999):
        (of_x0, std), (of_x_t, _) = (chain.posterior(a, b, t - 1, t) for a, b in ((one, zero), (zero, one)))
        found = {"posterior_mean_coef1": float(of_x0), "posterior_mean_coef2": float(of_x_t)}
        value = found.get(table, float(std) ** 2)
        assert value == pytest.approx(float(getattr(chain, table)[t]), rel=1e-9)


def test_dpm_solver_is_that_of_diffusers_step_for_step() -> None:
    chain = linear(1000, 1e-4, 0.02)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    theirs = DiffusersSampler(
        chain, "DPMSolverMultistepScheduler", {"lower_order_final": False, "final_sigmas_type": "zero"}
    )
    images = [
        walk(sampler, Exact(chain), chain, x, times)
        for sampler, times in (
            (theirs, theirs.grid(chain, 20, None)),
            (DPMSolver(chain), theirs.grid(chain, 20, None)),
        )
    ]
    assert torch.allclose(*images, atol=2e-5)


def test_diffusers_flow_scheduler_takes_the_steps_of_euler() -> None:
    path, x = RectifiedFlow(), torch.randn(4, 3)
    theirs = DiffusersSampler(path, "FlowMatchEulerDiscreteScheduler")
    times = theirs.grid(path, 9, None)
    assert times[0] == 1.0 and times[-1] == 0.0
    images = [walk(sampler, Exact(path), path, x, times) for sampler in (theirs, Euler(path))]
    assert torch.allclose(*images, atol=1e-5)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_heun_takes_two_calls_a_step_but_for_the_last(name: str) -> None:
    path = CONTINUOUS[name]
    assert count_calls(Heun(path), path, path.grid(18, None), dimensions=3) == 35


def test_the_grid_of_edm_is_the_published_one() -> None:
    """Karras et al. (2022), table 1: rho = 7, sigma from 80 to 0.002, then 0."""
    grid = EDM().grid(18, None)
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert grid == pytest.approx([*expected, 0.0], rel=1e-12)


def test_time_is_sigma_on_the_path_of_edm_alone() -> None:
    assert [name for name, path in PATHS.items() if path.time_is_sigma] == ["edm"]


@pytest.mark.parametrize(("path", "message"), [
    (RectifiedFlow(), 'spacing must be "uniform" on this path, not \'karras\''),
    (linear(10, 0.1, 0.5), "spacing must be one of 'leading', .* on a chain, not 'karras'"),
])  # fmt: skip
def test_a_spacing_that_a_path_has_not_is_refused(path: NoiseSchedule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        path.grid(5, "karras")


def test_sections_are_for_chains() -> None:
    with pytest.raises(ValueError, match="one number on a continuous path"):
        RectifiedFlow().grid([3, 4], None)


def test_ancestral_sampling_recovers_the_data_on_a_path_of_ones_own() -> None:
    """A path is two formulas: here a trigonometric one with another speed."""

    class Fast(Continuous):
        def alpha(self, t: Tensor) -> Tensor:
            return torch.where(t == 1, 0.0, torch.cos(math.pi / 2 * t**2))

        def sigma(self, t: Tensor) -> Tensor:
            return torch.sin(math.pi / 2 * t**2)

        def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return -math.pi * t * self.sigma(t), math.pi * t * self.alpha(t)

    path = Fast()
    torch.manual_seed(0)
    x = torch.randn(50_000, 1)
    images = walk(Ancestral(path), Exact(path), path, x, path.grid(300, None))
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(images.std()) == pytest.approx(STD, rel=0.03)


def test_a_chain_stays_of_its_own_class_when_it_is_respaced() -> None:
    class Mine(Chain):
        """Whatever a plugin adds to a chain."""

    assert type(Mine([0.1, 0.2, 0.3]).respace([0, 2])) is Mine
