import pytest
import torch
from ddgan_reference import hashed, unit, vectors

from toolkit.diffusion.chain import vp_sde
from toolkit.hf.folder import to_scheduler


def posterior_sample(schedule, x0, x_t, t, noise):
    mean, std = schedule.posterior(x0, x_t, t - 1, t)
    return mean + std * noise


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_schedule_equals_the_official_tables(steps):
    schedule = vp_sde(steps)
    official = vectors()["schedule_vp_bmin0.1_bmax20_eps1e-3"][str(steps)]
    for name in ("betas", "alphas_cumprod", "alphas_cumprod_prev"):
        expected = torch.tensor(official[name], dtype=torch.float64)
        assert torch.allclose(getattr(schedule, name), expected, rtol=0, atol=2e-7), name
    for name in ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance"):
        expected = torch.tensor(official[name], dtype=torch.float64)
        assert torch.allclose(getattr(schedule, name), expected, rtol=0, atol=3e-7), name
    # The first is log(1e-20) there and never used by either.
    expected = torch.tensor(official["posterior_log_variance_clipped"][1:], dtype=torch.float64)
    assert torch.allclose(schedule.posterior_log_variance_clipped[1:], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_schedule_equals_the_closed_form_in_float64(steps):
    schedule = vp_sde(steps)
    closed = vectors()["schedule_vp_bmin0.1_bmax20_eps1e-3"][str(steps)]["float64_closed_form"]
    names = ("betas", "alphas_cumprod", "posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance")
    for name in names:
        expected = torch.tensor(closed[name], dtype=torch.float64)
        assert torch.allclose(getattr(schedule, name), expected, rtol=1e-10, atol=1e-12), name


def test_signal_level_depends_on_the_share_of_the_chain_alone():
    two, four, eight = (vp_sde(steps).alphas_cumprod for steps in (2, 4, 8))
    assert torch.allclose(two, four[1::2]) and torch.allclose(four, eight[1::2])


def draws_of_the_pair():
    names = {"x0": hashed(500, 4, 1, 2, 2), "to_s": unit(501, 4, 1, 2, 2), "to_t": unit(502, 4, 1, 2, 2)}
    return names["x0"], names["to_s"], names["to_t"], torch.arange(4)


def test_pairs_equal_the_official_ones():
    x0, to_s, to_t, t = draws_of_the_pair()
    official = vectors()["pair_and_posterior_T4"]
    schedule = vp_sde(4)
    x_s = schedule.diffuse(x0, t - 1, to_s)
    x_t = schedule.advance(x_s, t - 1, t, to_t)
    assert torch.allclose(x_s.flatten(), torch.tensor(official["x_t"]), atol=1e-6)
    assert torch.allclose(x_t.flatten(), torch.tensor(official["x_tp1"]), atol=1e-6)


def test_posterior_samples_equal_the_official_ones():
    official = vectors()["pair_and_posterior_T4"]
    x_t = torch.tensor(official["x_tp1"]).view(4, 1, 2, 2)
    estimate, noise = hashed(504, 4, 1, 2, 2), unit(503, 4, 1, 2, 2)
    sample = posterior_sample(vp_sde(4), estimate, x_t, torch.arange(4), noise)
    assert torch.allclose(sample.flatten(), torch.tensor(official["posterior_sample"]), atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 2), (4, 1, 4, 4)])
def test_at_the_first_step_the_less_noisy_image_is_clean_and_the_posterior_returns_the_estimate(shape):
    x0, estimate, noise = torch.randn(3, *shape)
    t = torch.zeros(4, dtype=torch.int64)
    schedule = vp_sde(4)
    assert torch.equal(schedule.diffuse(x0, t - 1, noise), x0)
    assert torch.equal(posterior_sample(schedule, estimate, noise, t, noise), estimate)


@pytest.mark.parametrize("steps", [2, 4])
def test_reverse_steps_equal_those_of_the_diffusers_scheduler(steps):
    schedule = vp_sde(steps)
    scheduler = to_scheduler(schedule, prediction_type="sample", variance_type="fixed_small")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == list(range(steps))[::-1]
    x0, x_t = torch.randn(2, 3, 1, 4, 4)
    for t in range(steps):
        theirs = scheduler.step(x0, t, x_t, generator=torch.Generator().manual_seed(t)).prev_sample
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        ours = posterior_sample(schedule, x0, x_t, torch.full((3,), t), noise)
        assert torch.allclose(ours, theirs, atol=1e-6)
