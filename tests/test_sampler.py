"""Samplers against closed forms, published steps and diffusers, step for step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from toolkit import Denoiser, NoiseSchedule, Prediction, RunError, Sampler, randn
from toolkit.diffusion.sampler import DDIM, Ancestral
from toolkit.diffusion.schedule import linear
from toolkit.hf.schedulers import DiffusersSampler

VECTORS = json.loads((Path(__file__).parent / "vectors" / "ddpm.json").read_text())
MEAN, STD = 0.5, 0.3


class Gaussian(Denoiser):
    """The exact denoiser of data N(MEAN, STD^2): its mean, or a draw, of p(x_0 | x_t)."""

    def __init__(self, schedule: NoiseSchedule, *, draws: bool) -> None:
        super().__init__()
        self.schedule, self.draws = schedule, draws
        self.calls: list[int] = []

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
        self.calls.append(int(t[0]))
        abar = self.schedule.signal(t, x_t) ** 2
        variance = 1 / (1 / STD**2 + abar / (1 - abar))
        mean = variance * (MEAN / STD**2 + abar.sqrt() * x_t / (1 - abar))
        x0 = mean if latent is None else mean + variance.sqrt() * latent
        return Prediction(self.schedule, x_t, t, x0=x0)


class Linear(Denoiser):
    """Any smooth function will do to compare samplers."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        return Prediction(self.schedule, x_t, t, noise=0.9 * x_t.tanh() + 0.01)


def generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]


@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_ancestral_sampling_with_exact_draws_returns_the_data_distribution(steps: int) -> None:
    """What DDGAN's sampling rests on: with p(x_0 | x_t) drawn exactly, any number of steps is exact."""
    schedule = linear(1000, 1e-4, 0.02)
    torch.manual_seed(0)
    # From x_T of the data, not from N(0, I), so that nothing but the sampler can be wrong.
    sampler = Ancestral(schedule, steps, "linspace" if steps > 1 else "trailing")
    last = int(sampler.timesteps[-1])
    x = schedule.diffuse(
        MEAN + STD * torch.randn(100_000, 1), torch.full((100_000,), last), torch.randn(100_000, 1)
    )
    images = sampler.sample(Gaussian(schedule, draws=True), x, 1000)
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.005)
    assert float(images.std()) == pytest.approx(STD, rel=0.01)


def test_ddim_follows_the_exact_path_to_the_data_distribution() -> None:
    schedule = linear(1000, 1e-4, 0.02)
    torch.manual_seed(0)
    images = DDIM(schedule).sample(Gaussian(schedule, draws=False), torch.randn(50_000, 1), 1000)
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(images.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [None, 10, [3, 4, 6]])
def test_ancestral_equals_ddpm_scheduler_step_for_step(
    variance: Literal["fixed_small", "fixed_large"], clip: bool, steps: int | list[int] | None
) -> None:
    schedule = linear(100, 1e-3, 0.2)
    scheduler = schedule.to_scheduler(variance_type=variance, clip_sample=clip)
    sampler = Ancestral(schedule, steps, "strided", variance, clip)
    scheduler.set_timesteps(timesteps=sampler.timesteps.flip(0).tolist())
    x = theirs = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    ours = sampler.sample(Linear(schedule), x, 100, generators=generators(3))
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
    ours = DDIM(schedule, 10, "leading", eta, clip).sample(Linear(schedule), x, 100, generators=generators(3))
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
    samplers = Ancestral(schedule, steps, clip=clip), DDIM(schedule, steps, eta=1.0, clip=clip)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    images = [each.sample(Linear(schedule), x, 100, generators=generators(3)) for each in samplers]
    assert torch.allclose(*images, atol=1e-4, rtol=1e-3)


class Stated(Denoiser):
    """Predicts one noise, and keeps what it was asked about."""

    def __init__(self, schedule: NoiseSchedule, noise: Tensor) -> None:
        super().__init__()
        self.schedule, self.noise = schedule, noise
        self.seen: list[Tensor] = []

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append(x_t)
        return Prediction(self.schedule, x_t, t, noise=self.noise)


@pytest.mark.parametrize("t", [1, 500, 999])
def test_a_clipped_step_of_ddim_is_the_published_one_and_eta_adds_the_published_noise(t: int) -> None:
    pixels, noise, predicted = (
        torch.tensor(VECTORS["vlb"][key], dtype=torch.float32).view(1, 3, 4, 4)
        for key in ("u8", "noise", "eps_out")
    )
    schedule, vector = linear(1000, 1e-4, 0.02), VECTORS["ddim"][f"t{t}"]
    pair = schedule.respace([t - 1, t])  # so that the second call is shown the step's result
    x_t = schedule.diffuse(pixels / 127.5 - 1, torch.tensor([t]), noise)
    denoiser = Stated(schedule, predicted)
    DDIM(pair, eta=0.0, clip=True).sample(denoiser, x_t, 1000)
    x_s = denoiser.seen[1]
    assert x_s.flatten()[:4].tolist() == pytest.approx(vector["ddim_eta0_first4"], abs=1e-5)
    assert float(x_s.sum()) == pytest.approx(vector["ddim_eta0_sum"], abs=1e-4)

    many = x_t.expand(4000, -1, -1, -1)
    denoiser = Stated(schedule, predicted.expand_as(many))
    torch.manual_seed(0)
    DDIM(pair, eta=1.0, clip=True).sample(denoiser, many, 1000)
    assert float(denoiser.seen[1].std(0).mean()) == pytest.approx(vector["sigma_eta1"], rel=0.01)


SOLVERS = ("DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "HeunDiscrete")


@pytest.mark.parametrize("name", [f"{solver}Scheduler" for solver in SOLVERS])
def test_diffusers_schedulers_come_near_the_data_distribution_in_few_steps(name: str) -> None:
    schedule = linear(1000, 1e-4, 0.02)
    torch.manual_seed(0)
    sampler = DiffusersSampler(schedule, name, 50)
    images = sampler.sample(Gaussian(schedule, draws=False), torch.randn(20_000, 1), 1000)
    assert float(images.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(images.std()) == pytest.approx(STD, rel=0.15)


def samplers(schedule: NoiseSchedule) -> list[Sampler]:
    return [
        Ancestral(schedule), Ancestral(schedule, [3, 4], "strided"),
        DDIM(schedule, 7), DDIM(schedule, 7, eta=1.0),
        DiffusersSampler(schedule, "DDPMScheduler", 7),
        DiffusersSampler(schedule, "EulerAncestralDiscreteScheduler", 7),
        DiffusersSampler(schedule, "DPMSolverMultistepScheduler", 7),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(7))
def test_a_row_depends_on_its_own_generator_whatever_the_batch(index: int) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler, x = samplers(schedule)[index], torch.randn(4, 1, 4, 4)
    together = sampler.sample(Gaussian(schedule, draws=False), x, 100, generators=generators(4))
    alone = sampler.sample(Gaussian(schedule, draws=False), x[2:3], 100, generators=generators(4)[2:3])
    assert torch.equal(together[2:3], alone)


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("start", [0, 30, 100])
def test_network_calls_are_the_kept_timesteps_below_the_start(index: int, start: int) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler, denoiser = samplers(schedule)[index], Gaussian(schedule, draws=False)
    x = torch.randn(2, 1, 4, 4)
    told: list[int] = []
    out = sampler.sample(denoiser, x, start, generators=generators(2), progress=told.append)
    expected = [t for t in reversed(sampler.timesteps.tolist()) if t < start]
    assert denoiser.calls == expected
    assert told == list(range(1, len(expected) + 1))
    if start == 0:
        assert torch.equal(out, x)


def test_given_latents_replace_the_drawn_ones() -> None:
    schedule = linear(4, 0.3, 0.9)
    denoiser, x = Gaussian(schedule, draws=True), torch.randn(2, 1)
    latents = [torch.randn(2, 1) for _ in range(4)]
    same = [
        Ancestral(schedule).sample(denoiser, x, 4, generators=generators(2), latents=latents)
        for _ in range(2)
    ]
    assert torch.equal(*same)
    assert not torch.equal(same[0], Ancestral(schedule).sample(denoiser, x, 4, generators=generators(2)))
    with pytest.raises(ValueError, match="4 network calls need as many latents, got 3"):
        Ancestral(schedule).sample(denoiser, x, 4, latents=latents[:3])


@pytest.mark.parametrize(("options", "message"), [
    ({"scheduler": "DDIMSchedular"}, "no scheduler 'DDIMSchedular'. Did you mean 'DDIMScheduler'"),
    ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "takes no betas"),
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
        DiffusersSampler(linear(1000, 1e-4, 0.02), num_inference_steps=7, **options)


def test_the_clean_image_of_a_velocity_does_not_depend_on_what_was_read_first() -> None:
    """At abar = 0 the noise says nothing of x_0; the velocity is -x_0 there."""
    schedule = NoiseSchedule([0.5, 1.0])
    x_t, velocity, t = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([1, 1])
    prediction = Prediction(schedule, x_t, t, velocity=velocity)
    assert torch.equal(prediction.noise, x_t)
    assert torch.equal(prediction.x0, -velocity)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "HeunDiscreteScheduler"])
def test_a_scheduler_whose_steps_hang_together_is_not_started_halfway(scheduler: str) -> None:
    schedule = linear(100, 1e-3, 0.2)
    sampler = DiffusersSampler(schedule, scheduler, 10)
    with pytest.raises(RunError, match=f"{scheduler} cannot begin below the top of the chain"):
        sampler.sample(Gaussian(schedule, draws=False), torch.zeros(2, 1), start=50)
