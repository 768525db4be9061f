"""Chains against published tables, Bayes and diffusers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit import Chain, Prediction, kept_timesteps
from toolkit.diffusion.chain import Spacing, linear
from toolkit.diffusion.samplers import Ancestral
from toolkit.hf.folder import to_scheduler

VECTORS = json.loads((Path(__file__).parent / "vectors" / "ddpm.json").read_text())
TABLES = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip
LINEAR = {
    "schedule_linear_T1000": (1000, 1e-4, 0.02),
    "schedule_linear_T100_thesis": (100, 4e-4, 0.18),
    "schedule_linear_T100_official_rescaled": (100, 1e-3, 0.2),
}


@pytest.fixture
def schedule() -> Chain:
    return linear(1000, 1e-4, 0.02)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("table", TABLES)
def test_tables_equal_the_published_ones(name: str, table: str) -> None:
    vector = VECTORS[name]
    values = getattr(linear(*LINEAR[name]), table)[vector["index0"]]
    assert torch.allclose(values, torch.tensor(vector[table], dtype=torch.float64), rtol=1e-9, atol=0)


RESPACINGS: dict[str, tuple[int | list[int], Spacing]] = {
    "[10]": (10, "strided"),
    "[50]": (50, "strided"),
    "[250]": ([250], "strided"),
    "[10, 10, 20]": ([10, 10, 20], "strided"),
    "ddim10": (10, "ddim"),
    "ddim50": (50, "ddim"),
    "ddim250": (250, "ddim"),
}


@pytest.mark.parametrize("name", RESPACINGS)
def test_a_respaced_chain_is_the_published_one(schedule: Chain, name: str) -> None:
    vector = VECTORS["respacing"][name]
    timesteps = kept_timesteps(1000, *RESPACINGS[name]).tolist()
    assert timesteps == vector.get("timesteps", timesteps)
    assert timesteps[:12] == vector.get("timesteps_head", timesteps[:12])
    assert timesteps[-8:] == vector.get("timesteps_tail", timesteps[-8:])
    assert (len(timesteps), sum(timesteps)) == (vector["n"], vector.get("timesteps_sum", sum(timesteps)))

    respaced = schedule.respace(timesteps)
    betas, variance = respaced.betas[timesteps], respaced.posterior_variance[timesteps]
    found = [betas[0], betas[1], betas[-1], betas.sum(), variance[1], variance[-1]]
    names = ["beta_first", "beta_second", "beta_last", "beta_sum", "beta_tilde_second", "beta_tilde_last"]
    assert [float(x) for x in found] == pytest.approx([vector[n] for n in names], rel=1e-9)
    assert betas.tolist() == pytest.approx(vector.get("betas", betas.tolist()), rel=1e-9)
    assert variance.tolist() == pytest.approx(vector.get("beta_tilde", variance.tolist()), rel=1e-9)
    assert float(respaced.alphas_cumprod[timesteps[-1]]) == pytest.approx(
        vector["alphas_cumprod_last"], rel=1e-9
    )


def test_a_learned_variance_interpolates_between_the_bounds_of_the_respaced_chain(
    schedule: Chain,
) -> None:
    vector = VECTORS["respacing"]["[50]"]
    respaced = schedule.respace(vector["timesteps"])
    betas, small = torch.tensor([vector["betas"], vector["beta_tilde"]])
    small[0] = small[1]  # in place of 0, whose logarithm is no bound
    for fraction, expected in ((0.0, small), (1.0, betas), (0.25, small**0.75 * betas**0.25)):
        stds = [noise_added(respaced, fraction, t) for t in vector["timesteps"]]
        assert torch.allclose(torch.tensor(stds[1:]) ** 2, expected[1:], rtol=1e-5)
        assert stds[0] == 0  # the last step ends at x_0, whatever variance was learned for it


def noise_added(schedule: Chain, fraction: float, t: int) -> float:
    """How much noise ancestral sampling adds in the step from t, for a learned fraction of the variance."""
    grid, zero = schedule.grid(None, None), torch.zeros(1, 1, dtype=torch.float64)
    learned = torch.full_like(zero, fraction)
    prediction = Prediction(schedule, zero, t, x0=zero, variance_fraction=learned)
    s = grid[grid.index(t) + 1]
    step = Ancestral(schedule).stepper()
    return float(step(lambda *_: prediction, zero, t, s, lambda: torch.ones_like(zero)))  # type: ignore[arg-type]


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing", "strided", "ddim"])
def test_each_section_is_a_chain_of_its_own_and_the_first_ones_get_what_is_left_over(
    spacing: Spacing,
) -> None:
    whole = kept_timesteps(11, [2, 1, 3], spacing).tolist()  # sections of 4, 4 and 3 timesteps
    parts = [
        kept_timesteps(4, 2, spacing),
        kept_timesteps(4, 1, spacing) + 4,
        kept_timesteps(3, 3, spacing) + 8,
    ]
    assert whole == torch.cat(parts).tolist()


def test_a_whole_stride_is_the_smallest_that_fits_or_there_is_none() -> None:
    for n in range(1, 101):
        fitting = [stride for stride in range(1, 101) if len(range(0, 100, stride)) == n]
        if fitting:
            assert kept_timesteps(100, n, "ddim").tolist() == list(range(0, 100, fitting[0]))
        else:
            with pytest.raises(ValueError, match=f"no whole stride for {n} of 100"):
                kept_timesteps(100, n, "ddim")
    with pytest.raises(ValueError, match="nearest numbers that have one are 250 and 334$"):
        kept_timesteps(1000, 300, "ddim")


def test_strides_that_are_summed_differ_from_linspace_for_278_numbers_of_a_thousand() -> None:
    """The reference counted them with the published code and numpy's linspace."""
    spaced = ([kept_timesteps(1000, n, s).tolist() for s in ("strided", "linspace")] for n in range(1, 1001))
    assert sum(strided != linspace for strided, linspace in spaced) == 278


@pytest.mark.parametrize(("steps", "message"), [
    (101, "must be from 1 to 100, the length of the chain, not 101"),
    (0, "must be from 1 to 100, the length of the chain, not 0"),
    ([20, 30, 34], "must be from 1 to 33, the length of section 3 of 3, not 34"),
    ([], "must be a number, or one for each section"),
])  # fmt: skip
def test_numbers_of_steps_that_the_chain_has_not_are_refused(steps: int | list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"num_inference_steps {message}"):
        kept_timesteps(100, steps, "leading")


def test_dropped_timesteps_are_nan_and_original_indices_stay(schedule: Chain) -> None:
    respaced = schedule.respace([0, 500, 999])
    assert respaced.timesteps.tolist() == [0, 500, 999]
    assert respaced.alphas_cumprod[500] == schedule.alphas_cumprod[500]
    assert math.isnan(respaced.betas[499])
    assert respaced.diffuse(torch.ones(1, 2), torch.tensor([499]), torch.ones(1, 2)).isnan().all()


def test_respacing_to_every_timestep_changes_no_bit(schedule: Chain) -> None:
    respaced = schedule.respace(range(1000))
    assert all(torch.equal(getattr(respaced, name), getattr(schedule, name)) for name in TABLES)


@pytest.mark.parametrize(("timesteps", "message"), [
    ([], "must ascend"),
    ([3, 2], "must ascend"),
    ([5, 5], "must ascend"),
    ([1000], "must be among the 1000 of this schedule"),
    ([-1, 3], "must be among the 1000 of this schedule"),
])  # fmt: skip
def test_respacing_refuses_what_is_no_ascending_choice(
    schedule: Chain, timesteps: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=f"timesteps to keep {message}"):
        schedule.respace(timesteps)


def test_a_chain_is_respaced_to_the_times_of_a_walk(schedule: Chain) -> None:
    for n, spacing in ((10, "strided"), ([3, 4], "linspace"), (1000, None)):
        times = schedule.grid(n, spacing)
        kept = kept_timesteps(1000, n, spacing or "leading")  # type: ignore[arg-type]
        assert times == (*kept.flip(0).tolist(), -1)
        assert torch.equal(schedule.respaced(times).timesteps, kept)


def test_the_walk_of_a_respaced_chain_is_what_it_keeps(schedule: Chain) -> None:
    respaced = schedule.respace([0, 500, 999])
    assert respaced.grid(None, None) == (999, 500, 0, -1)
    assert respaced.noisiest == 999
    with pytest.raises(ValueError, match="must be among the 3 of this schedule"):
        respaced.grid(10, "leading")


def test_a_spacing_that_chains_have_not_is_refused(schedule: Chain) -> None:
    with pytest.raises(ValueError, match="spacing must be one of 'leading'.* on a chain, not 'karras'"):
        schedule.grid(10, "karras")


def test_the_timestep_before_each_is_the_kept_one_and_clean_data_before_the_first(schedule: Chain) -> None:
    respaced = schedule.respace([3, 500, 999])
    assert respaced.previous(torch.tensor([999, 3, 500])).tolist() == [500, -1, 3]


def test_steps_of_the_forward_chain_add_up_to_its_marginal() -> None:
    schedule = linear(20, 1e-3, 0.3)
    generator = torch.Generator().manual_seed(0)
    x = torch.full((200_000, 1), 2.0)
    for t in range(20):
        noise = torch.randn(x.shape, generator=generator)
        x = schedule.advance(x, t - 1, torch.full((len(x),), t), noise)
    abar = float(schedule.alphas_cumprod[-1])
    assert float(x.mean()) == pytest.approx(2 * abar**0.5, abs=0.01)
    assert float(x.var()) == pytest.approx(1 - abar, rel=0.01)


@pytest.mark.parametrize("kept", [None, [0, 7, 12, 19]])
def test_the_posterior_is_that_of_bayes(kept: list[int] | None) -> None:
    """q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): two Gaussians in x_s."""
    schedule = linear(20, 1e-3, 0.3)
    schedule = schedule if kept is None else schedule.respace(kept)
    x0, x_t = torch.tensor([[0.7]]), torch.tensor([[-0.4]])
    for s, t in zip(schedule.timesteps[:-1].tolist(), schedule.timesteps[1:].tolist(), strict=True):
        beta, abar = float(schedule.betas[t]), float(schedule.alphas_cumprod[s])
        precision = (1 - beta) / beta + 1 / (1 - abar)
        mean = ((1 - beta) ** 0.5 * -0.4 / beta + abar**0.5 * 0.7 / (1 - abar)) / precision
        assert beta == pytest.approx(1 - float(schedule.alphas_cumprod[t]) / abar, rel=1e-9)
        for of in (int, lambda time: torch.tensor([time])):  # a number is the same time as a tensor
            got_mean, got_std = schedule.posterior(x0, x_t, of(s), of(t))
            assert float(got_mean) == pytest.approx(mean, rel=1e-5)
            assert float(got_std) ** 2 == pytest.approx(1 / precision, rel=1e-5)


def test_the_posterior_of_two_neighbours_is_that_of_the_tables(schedule: Chain) -> None:
    """Ho et al. (2020), eq. 7, of which the tables are; the path itself knows alpha and sigma alone."""
    respaced = schedule.respace(kept_timesteps(1000, 50, "strided"))
    x0, x_t = torch.randn(2, 49, 3).unbind()
    s, t = respaced.timesteps[:-1], respaced.timesteps[1:]
    mean, std = respaced.posterior(x0, x_t, s, t)
    first, second = respaced.posterior_mean_coef1[t, None], respaced.posterior_mean_coef2[t, None]
    assert torch.allclose(mean.double(), first * x0 + second * x_t, atol=1e-6)
    assert torch.allclose(std.flatten().double() ** 2, respaced.posterior_variance[t], rtol=1e-5)  # type: ignore[union-attr]


def test_the_last_posterior_is_the_clean_image_itself(schedule: Chain) -> None:
    x0, x_t = torch.randn(2, 2, 1, 4, 4).unbind()
    for s, t in ((-1, 0), (torch.tensor([-1, -1]), torch.tensor([0, 700]))):
        mean, std = schedule.posterior(x0, x_t, s, t)
        assert torch.equal(mean, x0)
        assert not torch.as_tensor(std).any()


def test_index_minus_one_is_clean_data_and_others_outside_the_chain_raise(schedule: Chain) -> None:
    x0, noise = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(schedule.diffuse(x0, torch.tensor([-1, -1]), noise), x0)
    for t in (-2, 1000):
        with pytest.raises((IndexError, RuntimeError)):
            schedule.diffuse(x0, torch.tensor([0, t]), noise)
        with pytest.raises(LookupError):
            schedule.diffuse(x0, t, noise)


def test_betas_survive_lower_precision_of_the_data(schedule: Chain) -> None:
    schedule.diffuse(torch.ones(1, 2, dtype=torch.bfloat16), torch.tensor([999]), torch.ones(1, 2))
    assert schedule.alphas_cumprod.dtype == torch.float64


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("n", [1, 10, 27, 48, 50, 300, 1000])
def test_kept_timesteps_are_those_of_diffusers(spacing: Spacing, n: int) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(1000, timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(n)
    assert kept_timesteps(1000, n, spacing).flip(0).tolist() == scheduler.timesteps.tolist()


def test_the_scheduler_has_the_same_chain(schedule: Chain) -> None:
    scheduler = to_scheduler(schedule, variance_type="fixed_large")
    assert torch.allclose(scheduler.alphas_cumprod.double(), schedule.alphas_cumprod, rtol=1e-5)
    assert scheduler.config.variance_type == "fixed_large" and not scheduler.config.clip_sample
    with pytest.raises(ValueError, match="respaced"):
        to_scheduler(schedule.respace([0, 1]))


@pytest.mark.parametrize("case", VECTORS["learned_variance"], ids=str)
def test_a_learned_variance_lies_between_its_bounds(schedule: Chain, case: dict[str, Any]) -> None:
    bounds = schedule.posterior_log_variance_clipped[case["t"]], schedule.betas[case["t"]].log()
    assert [float(bound) for bound in bounds] == pytest.approx([case["min_log"], case["max_log"]], rel=1e-6)
    std = noise_added(schedule, case["frac"], case["t"])
    if case["t"] == 0:
        assert std == 0  # the last step ends at x_0
    else:
        assert 2 * math.log(std) == pytest.approx(case["log_variance"], rel=1e-6)


@pytest.mark.parametrize("betas", [[], [0.0], [0.1, 1.5], [float("nan")], [[0.1]]])
def test_betas_outside_the_unit_interval_are_refused(betas: list[float]) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        Chain(betas)
