"""Samplers against closed forms, published steps and diffusers, step for step."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from toolkit import (
    Chain,
    Denoiser,
    NoiseSchedule,
    Prediction,
    RunError,
    Sampler,
    SamplerStep,
    SamplingError,
    Steps,
    Target,
    randn,
    walk,
)
from toolkit.diffusion.chain import linear
from toolkit.diffusion.continuous import EDM, Cosine, RectifiedFlow
from toolkit.diffusion.sampler import count_calls
from toolkit.diffusion.samplers import DDIM, Ancestral, Consistency, DPMSolver, Euler, Heun
from toolkit.hf.folder import to_scheduler
from toolkit.hf.schedulers import DiffusersSampler
from toolkit.testing.oracles import COVARIANCE
from toolkit.testing.oracles import MEAN as OF_POINTS
from toolkit.testing.oracles import Gaussian as GaussianPoints

VECTORS = json.loads((Path(__file__).parent / "vectors" / "ddpm.json").read_text())
MEAN, STD = 0.5, 0.3


class Gaussian(Denoiser):
    """The exact denoiser of data N(MEAN, STD^2): its mean, or a draw, of p(x_0 | x_t)."""

    def __init__(self, schedule: NoiseSchedule, *, draws: bool) -> None:
        super().__init__()
        self.schedule, self.draws = schedule, draws
        self.calls: list[float] = []

    def latent(self, n: int, generators: Sequence[torch.Generator] | None) -> Tensor | None:
        return randn((n, 1), generators, torch.device("cpu")) if self.draws else None

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.calls.append(float(t[0]))
        alpha, sigma = self.schedule.at(t, x_t)
        variance = 1 / (1 / STD**2 + alpha**2 / sigma**2)
        mean = variance * (MEAN / STD**2 + alpha * x_t / sigma**2)
        x0 = mean if latent is None else mean + variance.sqrt() * latent
        return Prediction(self.schedule, x_t, t, x0=x0)


class Linear(Denoiser):
    """Any smooth function will do to compare samplers."""

    def __init__(self, schedule: NoiseSchedule, target: Target = "noise") -> None:
        super().__init__()
        self.schedule, self.target = schedule, target

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        return Prediction.from_output(self.schedule, x_t, t, 0.9 * x_t.tanh() + 0.01, self.target)


def sampled(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Tensor,
    n: Steps | None = None,
    spacing: str | None = None,
    *,
    start: float | None = None,
    **draws: Any,
) -> Tensor:
    """x, led down those times of the sampler's grid that are not above `start`."""
    schedule = denoiser.schedule
    times = [t for t in sampler.grid(schedule, n, spacing) if start is None or t <= start]
    return walk(sampler, denoiser, schedule, x, times, **draws)


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_ancestral_sampling_with_exact_draws_returns_the_data_distribution(steps: int) -> None:
    """What DDGAN's sampling rests on: with p(x_0 | x_t) drawn exactly, any number of steps is exact."""
    schedule = linear(1000, 1e-4, 0.02)
    torch.manual_seed(0)
    # From x_T of the data, not from N(0, I), so that nothing but the sampler can be wrong.
    sampler, spacing = Ancestral(schedule), "linspace" if steps > 1 else "trailing"
    x0, noise = MEAN + STD * torch.randn(100_000, 1), torch.randn(100_000, 1)
    x = schedule.diffuse(x0, sampler.grid(schedule, steps, spacing)[0], noise)
    images = sampled(sampler, Gaussian(schedule, draws=True), x, steps, spacing)
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.005)
    assert float(images.std()) == pytest.approx(STD, rel=0.01)


def test_ddim_follows_the_exact_path_to_the_data_distribution() -> None:
    schedule = linear(1000, 1e-4, 0.02)
    torch.manual_seed(0)
    images = sampled(DDIM(schedule), Gaussian(schedule, draws=False), torch.randn(50_000, 1))
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(images.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [None, 10, [3, 4, 6]])
def test_ancestral_equals_ddpm_scheduler_step_for_step(
    variance: Literal["fixed_small", "fixed_large"], clip: bool, steps: int | list[int] | None
) -> None:
    schedule = linear(100, 1e-3, 0.2)
    scheduler = to_scheduler(schedule, variance_type=variance, clip_sample=clip)
    sampler = Ancestral(schedule, variance, clip)
    scheduler.set_timesteps(timesteps=list(sampler.grid(schedule, steps, "strided")[:-1]))
    x = theirs = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    ours = sampled(sampler, Linear(schedule), x, steps, "strided", generators=generators(3))
    drawing = generators(3)
    for t in scheduler.timesteps:
        theirs = scheduler.step(0.9 * theirs.tanh() + 0.01, t, theirs, generator=drawing).prev_sample
    assert torch.allclose(ours, theirs, atol=2e-4 if steps else 5e-3, rtol=2e-3)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_equals_ddim_scheduler_step_for_step(eta: float, clip: bool) -> None:
    from diffusers import DDIMScheduler

    schedule = linear(100, 1e-3, 0.2)
    scheduler = DDIMScheduler(100, trained_betas=schedule.betas.numpy(), clip_sample=clip)
    scheduler.set_timesteps(10)
    x = theirs = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    ours = sampled(DDIM(schedule, eta, clip), Linear(schedule), x, 10, "leading", generators=generators(3))
    drawing = generators(3)
    for t in scheduler.timesteps:
        noise = 0.9 * theirs.tanh() + 0.01
        drawn = torch.cat([torch.randn(1, 1, 4, 4, generator=g) for g in drawing]) if eta and t > 0 else None
        options = {"eta": eta, "use_clipped_model_output": clip, "variance_noise": drawn}
        theirs = scheduler.step(noise, t, theirs, **options).prev_sample
    assert torch.allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("steps", [None, 10, [3, 4, 6]])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_1_takes_the_steps_of_ancestral_sampling(
    clip: bool, steps: int | list[int] | None
) -> None:
    """Song et al. (2021), section 4.1: mean and variance agree, so equal noise gives equal images."""
    schedule = linear(100, 1e-3, 0.2)
    samplers = Ancestral(schedule, clip=clip), DDIM(schedule, eta=1.0, clip=clip)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    images = [sampled(each, Linear(schedule), x, steps, generators=generators(3)) for each in samplers]
    assert torch.allclose(*images, atol=1e-4, rtol=1e-3)


class Stated(Denoiser):
    """Predicts one noise, whatever it is asked."""

    def __init__(self, schedule: NoiseSchedule, noise: Tensor) -> None:
        super().__init__()
        self.schedule, self.noise = schedule, noise

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        return Prediction(self.schedule, x_t, t, noise=self.noise)


@pytest.mark.parametrize("t", [1, 500, 999])
def test_a_clipped_step_of_ddim_is_the_published_one_and_eta_adds_the_published_noise(t: int) -> None:
    pixels, noise, predicted = (
        torch.tensor(VECTORS["vlb"][key], dtype=torch.float32).view(1, 3, 4, 4)
        for key in ("u8", "noise", "eps_out")
    )
    schedule, vector = linear(1000, 1e-4, 0.02), VECTORS["ddim"][f"t{t}"]
    x_t, step = schedule.diffuse(pixels / 127.5 - 1, t, noise), (t, t - 1)
    x_s = walk(DDIM(schedule, eta=0.0, clip=True), Stated(schedule, predicted), schedule, x_t, step)
    assert x_s.flatten()[:4].tolist() == pytest.approx(vector["ddim_eta0_first4"], abs=1e-5)
    assert float(x_s.sum()) == pytest.approx(vector["ddim_eta0_sum"], abs=1e-4)

    many = x_t.expand(4000, -1, -1, -1)
    denoiser = Stated(schedule, predicted.expand_as(many))
    torch.manual_seed(0)
    drawn = walk(DDIM(schedule, eta=1.0, clip=True), denoiser, schedule, many, step)
    assert float(drawn.std(0).mean()) == pytest.approx(vector["sigma_eta1"], rel=0.01)


SOLVERS = ("DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "HeunDiscrete")


@pytest.mark.parametrize("name", [f"{solver}Scheduler" for solver in SOLVERS])
def test_diffusers_schedulers_come_near_the_data_distribution_in_few_steps(name: str) -> None:
    schedule = linear(1000, 1e-4, 0.02)
    torch.manual_seed(0)
    sampler = DiffusersSampler(schedule, name)
    images = sampled(sampler, Gaussian(schedule, draws=False), torch.randn(20_000, 1), 50)
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(images.std()) == pytest.approx(STD, rel=0.15)


def samplers(schedule: Chain) -> list[tuple[Sampler, Steps | None, str | None]]:
    """Each with the steps of its walk and their spacing."""
    return [
        (Ancestral(schedule), None, None), (Ancestral(schedule), [3, 4], "strided"),
        (DDIM(schedule), 7, None), (DDIM(schedule, eta=1.0), 7, "trailing"), (DPMSolver(schedule), 7, None),
        (DiffusersSampler(schedule, "DDPMScheduler"), 7, None),
        (DiffusersSampler(schedule, "EulerAncestralDiscreteScheduler"), 7, None),
        (DiffusersSampler(schedule, "DPMSolverMultistepScheduler"), 7, "trailing"),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(8))
def test_a_row_depends_on_its_own_generator_whatever_the_batch(index: int) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler, *grid = samplers(schedule)[index]
    denoiser, x = Gaussian(schedule, draws=False), torch.randn(4, 1, 4, 4)
    together = sampled(sampler, denoiser, x, *grid, generators=generators(4))
    alone = sampled(sampler, denoiser, x[2:3], *grid, generators=generators(4)[2:3])
    assert torch.equal(together[2:3], alone)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("start", [-1, 29, 99])
def test_network_calls_are_the_times_of_the_grid_from_the_start_on(index: int, start: int) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler, n, spacing = samplers(schedule)[index]
    denoiser, x = Gaussian(schedule, draws=False), torch.randn(2, 1, 4, 4)
    told: list[int] = []
    out = sampled(
        sampler, denoiser, x, n, spacing, start=start, generators=generators(2), progress=told.append
    )
    expected = [t for t in sampler.grid(schedule, n, spacing) if -1 < t <= start]
    assert denoiser.calls == expected
    assert told == list(range(1, len(expected) + 1))
    if start == -1:
        assert torch.equal(out, x)


def test_given_latents_replace_the_drawn_ones() -> None:
    schedule = linear(4, 0.3, 0.9)
    sampler, denoiser, x = Ancestral(schedule), Gaussian(schedule, draws=True), torch.randn(2, 1)
    latents = [torch.randn(2, 1) for _ in range(4)]
    same = [sampled(sampler, denoiser, x, generators=generators(2), latents=latents) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], sampled(sampler, denoiser, x, generators=generators(2)))
    with pytest.raises(ValueError, match="every network call needs its latent, got 3"):
        sampled(sampler, denoiser, x, latents=latents[:3])
    with pytest.raises(ValueError, match="4 network calls need as many latents, got 5"):
        sampled(sampler, denoiser, x, latents=[*latents, latents[0]])


@pytest.mark.parametrize(("options", "message"), [
    ({"scheduler": "DDIMSchedular"}, "no scheduler 'DDIMSchedular'. Did you mean 'DDIMScheduler'"),
    ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "takes no betas, so it cannot follow this schedule"),
    (
        {"scheduler": "DDIMScheduler", "options": {"stepz_offset": 1}},
        "no option 'stepz_offset'. Did you mean 'steps_offset'",
    ),
    (
        {"scheduler": "EulerDiscreteScheduler", "options": {"timestep_spacing": "linspace"}},
        "between those of the chain",
    ),
])  # fmt: skip
def test_a_scheduler_that_cannot_be_used_is_refused(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        schedule = linear(1000, 1e-4, 0.02)
        DiffusersSampler(schedule, **options).grid(schedule, 7, None)


@pytest.mark.parametrize(("n", "spacing", "message"), [
    (None, None, "DDIMScheduler needs num_inference_steps, one number"),
    ([3, 4], None, "DDIMScheduler needs num_inference_steps, one number"),
    (7, "strided", "DDIMScheduler has no spacing 'strided', but leading, linspace, trailing"),
])  # fmt: skip
def test_steps_that_a_scheduler_cannot_take_are_refused(
    n: Steps | None, spacing: str | None, message: str
) -> None:
    schedule = linear(100, 1e-3, 0.2)
    with pytest.raises(ValueError, match=message):
        DiffusersSampler(schedule, "DDIMScheduler").grid(schedule, n, spacing)


def test_the_clean_image_of_a_velocity_does_not_depend_on_what_was_read_first() -> None:
    """At abar = 0 the noise says nothing of x_0; the velocity is -x_0 there."""
    schedule = Chain([0.5, 1.0])
    x_t, velocity, t = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([1, 1])
    prediction = Prediction(schedule, x_t, t, velocity=velocity)
    assert torch.equal(prediction.noise, x_t)
    assert torch.equal(prediction.x0, -velocity)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "HeunDiscreteScheduler"])
def test_a_scheduler_whose_steps_hang_together_is_not_started_halfway(scheduler: str) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler = DiffusersSampler(schedule, scheduler)
    with pytest.raises(RunError, match=f"{scheduler} cannot begin below the top of the chain"):
        sampled(sampler, Gaussian(schedule, draws=False), torch.zeros(2, 1), 10, start=50)


def test_euler_on_rectified_flow_equals_the_flow_matching_scheduler_step_for_step() -> None:
    path = RectifiedFlow()
    theirs = DiffusersSampler(path, "FlowMatchEulerDiscreteScheduler", {"shift": 3.0})
    times = theirs.grid(path, 12, None)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    ended = [walk(each, Linear(path, "flow"), path, x, times) for each in (Euler(path), theirs)]
    assert torch.allclose(*ended, atol=1e-5)


def test_dpm_solver_equals_that_of_diffusers_step_for_step() -> None:
    schedule = linear(1000, 1e-4, 0.02)
    options = {"solver_order": 2, "lower_order_final": False, "final_sigmas_type": "zero"}
    theirs = DiffusersSampler(schedule, "DPMSolverMultistepScheduler", options)
    times = theirs.grid(schedule, 12, None)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    ended = [walk(each, Linear(schedule), schedule, x, times) for each in (DPMSolver(schedule), theirs)]
    assert torch.allclose(*ended, rtol=1e-4, atol=1e-4)


def test_heun_on_the_path_of_karras_takes_the_published_steps() -> None:
    """Karras et al. (2022), algorithm 2 without churn, as their generate.py has it."""
    path, denoiser = EDM(), Linear(EDM())
    x = theirs = 80 * torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    times = path.grid(18, None)

    def slope(x: Tensor, t: float) -> Tensor:
        return (x - denoiser(x, torch.full((3,), t)).x0) / t

    for t, s in pairwise(times):
        d = slope(theirs, t)
        following = theirs + (s - t) * d
        theirs = following if s == 0 else theirs + (s - t) * (d + slope(following, s)) / 2
    assert torch.allclose(sampled(Heun(path), denoiser, x, 18), theirs, rtol=1e-4, atol=1e-4)
    assert count_calls(Heun(path), path, times, 3) == 35


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("path", [RectifiedFlow(), Cosine(), EDM(), linear(1000, 1e-4, 0.02)])
def test_consistency_sampling_of_an_exact_map_returns_the_data_distribution(
    steps: int, path: NoiseSchedule
) -> None:
    torch.manual_seed(0)
    x = path.prior_std * torch.randn(50_000, 2)
    spacing = "trailing" if path.discrete else None
    points = sampled(Consistency(path), GaussianPoints(path, flow_map=True), x, steps, spacing)
    assert torch.allclose(points.mean(0), OF_POINTS, atol=0.02)
    assert torch.allclose(points.T.cov(), COVARIANCE, atol=0.02)


def test_a_consistency_sampler_calls_at_the_first_of_its_times() -> None:
    path = EDM()
    sampler = Consistency(path, [2.0, 0.5])
    assert [sampler.grid(path, n, None) for n in (1, 2, 3, None)] == [
        (80.0, 0.0), (80.0, 2.0, 0.0), (80.0, 2.0, 0.5, 0.0), (80.0, 2.0, 0.5, 0.0),
    ]  # fmt: skip
    torch.manual_seed(0)
    denoiser = GaussianPoints(path, flow_map=True)
    points = walk(sampler, denoiser, path, 80 * torch.randn(50_000, 2), sampler.grid(path, None, None))
    assert torch.allclose(points.T.cov(), COVARIANCE, atol=0.02)
    assert count_calls(sampler, path, sampler.grid(path, 2, None), 3) == 2
    with pytest.raises(ValueError, match="at most 3, one more than intermediate_times has, not 4"):
        sampler.grid(path, 4, None)
    with pytest.raises(ValueError, match="leave spacing out"):
        sampler.grid(path, None, "karras")


@pytest.mark.parametrize(
    ("path", "times", "message"),
    [
        (EDM(), [0.5, 2.0], r"descending numbers between the noisiest time 80 and the clean one 0, not"),
        (EDM(), [80.0], r"not \[80.0\]"),
        (linear(1000, 1e-4, 0.02), [10.5], "descending whole numbers between the noisiest time 999"),
    ],
)
def test_times_that_are_not_on_the_way_down_are_refused(
    path: NoiseSchedule, times: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Consistency(path, times)


@pytest.mark.parametrize(("solver", "order"), [(Euler, 1), (Heun, 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver: type[Euler] | type[Heun], order: int) -> None:
    """On a path whose end is known: that of the exact map."""
    path = RectifiedFlow()
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(9))
    exact = walk(Consistency(path), GaussianPoints(path, flow_map=True), path, x, (1.0, 0.0))
    ended = [sampled(solver(path), GaussianPoints(path), x, n) for n in (20, 40)]
    errors = [float((x - exact).abs().max()) for x in ended]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)


class Broken(Linear):
    """From some call on its estimate is not finite, in one number of one row."""

    def __init__(self, schedule: NoiseSchedule, after: int, value: float) -> None:
        super().__init__(schedule)
        self.calls, self.after, self.value = 0, after, value

    def forward(self, x_t: Tensor, t: Tensor, **more: Any) -> Prediction:
        noise = 0.1 * x_t
        if self.calls >= self.after:
            noise[1, 0] = self.value
        self.calls += 1
        return Prediction(self.schedule, x_t, t, noise=noise)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("after", [0, 3, 6])
@pytest.mark.parametrize("index", range(8))
def test_samples_that_are_not_finite_are_an_error_at_the_step_where_they_arise(
    index: int, after: int, value: float
) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler, n, spacing = samplers(schedule)[index]
    times, denoiser = sampler.grid(schedule, n, spacing), Broken(schedule, after, value)
    step = rf"after step {after + 1} of {len(times) - 1}, from t = {times[after]} to {times[after + 1]}$"
    with pytest.raises(SamplingError, match=step):
        walk(sampler, denoiser, schedule, torch.randn(2, 3), times)
    assert denoiser.calls == after + 1  # no work is spent on the rest


def test_a_walk_does_not_start_from_what_is_not_finite() -> None:
    schedule = linear(100, 1e-3, 0.2)
    denoiser = Broken(schedule, 0, 0.0)
    with pytest.raises(SamplingError, match="starts from numbers that are not finite"):
        walk(Ancestral(schedule), denoiser, schedule, torch.full((2, 3), float("nan")), (5, 2, -1))
    assert denoiser.calls == 0


@pytest.mark.parametrize(("name", "n", "can"), [
    ("DPMSolverMultistepScheduler", 20, "1 to 19"),
    ("DEISMultistepScheduler", 20, "1 to 19"),
    ("UniPCMultistepScheduler", 20, "1 to 19"),
    ("SASolverScheduler", 20, "1 to 19"),
    ("PNDMScheduler", 3, "4 to 20"),
    ("DDIMScheduler", 21, "1 to 20"),
    ("DDIMScheduler", 10**9, "1 to 20"),
])  # fmt: skip
def test_steps_that_a_solver_cannot_take_are_refused_with_the_range_that_it_can(
    name: str, n: int, can: str
) -> None:
    schedule = linear(20, 1e-3, 0.2)
    sampler, denoiser = DiffusersSampler(schedule, name), Linear(schedule)
    with pytest.raises(ValueError, match=rf"{name} cannot take num_inference_steps = {n} .* {can}$"):
        sampler.grid(schedule, n, None)
    for end in map(int, can.split(" to ")):  # it can indeed
        assert sampled(sampler, denoiser, torch.randn(2, 3), end).isfinite().all()


class Outer(Sampler):
    """A sampler with another one inside, which it asks for times or not."""

    def __init__(self, inner: Sampler, asks: bool) -> None:
        self.inner, self.asks = inner, asks

    def stepper(self) -> SamplerStep:
        return self.inner.stepper()

    def grid(self, schedule: NoiseSchedule, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        return self.inner.grid(schedule, n, spacing) if self.asks else schedule.grid(n, spacing)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_a_solver_inside_another_sampler_takes_the_steps_asked_for_or_refuses(name: str) -> None:
    schedule, x = linear(100, 1e-3, 0.2), torch.randn(2, 3)
    inner = DiffusersSampler(schedule, name)
    alone = sampled(inner, Linear(schedule), x, 10, generators=generators(2))
    again = sampled(Outer(inner, True), Linear(schedule), x, 10, generators=generators(2))
    assert torch.equal(alone, again)
    with pytest.raises(RunError, match=f"{name} is asked for a step from t = .*, which is not its next time"):
        sampled(Outer(inner, False), Linear(schedule), x, 5, "trailing")


@pytest.mark.parametrize("target", ["noise", "x0", "velocity"])
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "PNDMScheduler"]
)
def test_a_solver_gets_what_the_network_computes(name: str, target: Target) -> None:
    """As diffusers itself hands it over; PNDM knows no prediction of x_0, and gets the noise."""
    import diffusers

    schedule = linear(100, 1e-3, 0.2)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    ours = sampled(DiffusersSampler(schedule, name), Linear(schedule, target), x, 10)
    kind = {"noise": "epsilon", "x0": "sample", "velocity": "v_prediction"}[target]
    if (name, target) == ("PNDMScheduler", "x0"):
        assert ours.isfinite().all()
        return
    clip = {"clip_sample": False} if name == "DDIMScheduler" else {}
    theirs = getattr(diffusers, name)(
        100, trained_betas=schedule.betas.numpy(), prediction_type=kind, timestep_spacing="leading", **clip
    )
    theirs.set_timesteps(10)
    for t in theirs.timesteps:
        x = theirs.step(0.9 * x.tanh() + 0.01, t, x).prev_sample
    assert torch.equal(ours, x)
