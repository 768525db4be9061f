"""The terms of the variational bound against numbers from the authors' code and against closed forms."""

import math

import pytest
import torch
from improved_ddpm_reference import Says, image, published, vectors

from toolkit import Prediction
from toolkit_improved_ddpm.bound import Bound, discretised_log_likelihood
from toolkit_improved_ddpm.nll import terms

CASES = vectors()["vlb"]["cases"]


@pytest.mark.parametrize("name", CASES)
def test_every_published_term_of_the_bound_comes_out(name: str) -> None:
    case, schedule = CASES[name], published()
    learned = case["var"] == "learned_range"
    bits, error = terms(
        Says(schedule, image("eps_out"), image("v_out")), Bound(schedule), image("x0"),
        torch.tensor([case["t"]]), image("noise"),
        fixed="fixed_small" if learned else case["var"], learned=learned, clip=case["clip_denoised"],
    )  # fmt: skip
    assert float(bits) == pytest.approx(case["vb_bits"], rel=1e-5)  # the authors, in float32: up to 0.2
    assert float(error) == pytest.approx(vectors()["vlb"]["hybrid"]["mse"], rel=1e-5)


def test_the_prior_is_what_the_last_timestep_shows_of_the_image() -> None:
    bits = Bound(published()).prior(image("x0"))
    assert float(bits) == pytest.approx(vectors()["vlb"]["prior_bits"], rel=1e-5)


@pytest.mark.parametrize("case", vectors()["discretized_gaussian"])
def test_levels_have_the_published_likelihood(case: dict[str, float]) -> None:
    x, mean, log_std = (torch.tensor(case[k], dtype=torch.float64) for k in ("x", "mean", "log_scale"))
    assert float(discretised_log_likelihood(x, mean, log_std)) == pytest.approx(
        case["loglik_nats_tanh_cdf"], rel=1e-9
    )


def test_the_levels_share_all_of_the_probability() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.3, 0.02), (-1.2, 0.5), (0.999, 1e-3)):
        logs = discretised_log_likelihood(levels, torch.tensor(mean), torch.tensor(math.log(std)))
        assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_a_learned_variance_lies_between_the_two_fixed_ones() -> None:
    schedule = published()
    bound = Bound(schedule)
    for case in vectors()["learned_variance"]:
        t, v = torch.tensor([case["t"]]), torch.full((1, 1), case["v_out"])
        said = Prediction(schedule, v, t, noise=v, variance_fraction=(v + 1) / 2)
        log_variance = schedule.posterior_log_variance_clipped[t] + bound.learned_excess(said, t)
        assert float(log_variance) == pytest.approx(case["log_variance"], rel=1e-6)


def test_terms_are_divergences_of_gaussians_as_torch_computes_them() -> None:
    torch.manual_seed(0)
    schedule = published().respace([0, 3, 10, 200, 999])
    bound, t = Bound(schedule), torch.tensor([3, 10, 200, 999])
    x0, estimate = torch.rand(4, 2, 3) * 2 - 1, torch.rand(4, 2, 3) * 2 - 1
    x_t, excess = torch.randn(4, 2, 3), torch.rand(4, 2, 3)

    def gaussian(mean: torch.Tensor, std: torch.Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(mean.double(), std.double())

    s = schedule.previous(t)
    mean, std = schedule.posterior(x0, x_t, s, t)
    q = gaussian(mean, std)
    p = gaussian(schedule.posterior(estimate, x_t, s, t)[0], std * (excess / 2).exp())
    nats = torch.distributions.kl_divergence(q, p).flatten(1).mean(1)
    assert torch.allclose(bound.term(x0, estimate, excess, t).double(), nats / math.log(2), rtol=1e-4)
