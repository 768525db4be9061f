"""The hybrid and the variational loss: what they are made of, and what their gradients reach."""

import pytest
import torch
from improved_ddpm_reference import Says, image, published, vectors
from torch import Tensor

from toolkit import Denoiser, DenoisingLoss, NoiseSchedule, RecipeError
from toolkit_improved_ddpm.bound import Bound
from toolkit_improved_ddpm.losses import VLB, Hybrid
from toolkit_improved_ddpm.nll import terms

HYBRID = vectors()["vlb"]["hybrid"]


def outputs() -> tuple[Tensor, Tensor]:
    """The two halves of the network's output, which want gradients."""
    return image("eps_out").requires_grad_(), image("v_out").requires_grad_()


def loss_at(loss: DenoisingLoss, schedule: NoiseSchedule, noise: Tensor, v: Tensor | None, t: int) -> Tensor:
    return given(loss, Says(schedule, noise, v), schedule, image("x0"), torch.tensor([t]), image("noise"))


def given(
    loss: DenoisingLoss, denoiser: Denoiser, schedule: NoiseSchedule, x0: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    return loss(denoiser(schedule.diffuse(x0, t, noise), t), x0, noise)


def test_the_hybrid_is_the_error_of_the_noise_and_a_thousandth_of_the_bound() -> None:
    schedule, noise, v = published(), image("eps_out"), image("v_out")
    loss = loss_at(Hybrid(schedule), schedule, noise, v, HYBRID["t"])
    assert float(loss) == pytest.approx(HYBRID["loss"], rel=1e-6)
    twice = loss_at(Hybrid(schedule, vb_weight=2e-3), schedule, noise, v, HYBRID["t"])
    assert float(twice - loss) == pytest.approx(HYBRID["vb_bits"], rel=5e-4)


def test_the_bound_counts_as_many_terms_as_timesteps_are_kept() -> None:
    schedule = published().respace(range(0, 1000, 100))
    denoiser = Says(schedule, image("eps_out"), image("v_out"))
    arguments = (image("x0"), torch.tensor([500]), image("noise"))
    vb, error = terms(denoiser, Bound(schedule), *arguments, clip=False)
    assert float(given(VLB(schedule), denoiser, schedule, *arguments)) == pytest.approx(10 * float(vb))
    assert float(given(Hybrid(schedule, 2.0), denoiser, schedule, *arguments)) == pytest.approx(
        float(error + 20 * vb)
    )


def test_the_variational_loss_is_the_bound_as_one_timestep_estimates_it() -> None:
    schedule = published()
    loss = loss_at(VLB(schedule), schedule, image("eps_out"), image("v_out"), HYBRID["t"])
    assert float(loss) == pytest.approx(HYBRID["rescaled_kl_loss"], rel=5e-5)


@pytest.mark.parametrize("t", [0, 500])
def test_the_bound_within_the_hybrid_trains_the_variance_alone(t: int) -> None:
    """So the noise's gradient is that of the squared error, exactly, whatever the weight of the bound."""
    schedule, gradients = published(), []
    for weight in (1e-3, 10.0):
        noise, v = outputs()
        loss_at(Hybrid(schedule, weight), schedule, noise, v, t).sum().backward()
        gradients.append(noise.grad)
        assert float(v.grad.abs().sum()) > 0
    assert torch.equal(*gradients)
    assert torch.allclose(gradients[0], 2 * (noise - image("noise")).detach() / 48)


def test_the_variance_gets_the_published_gradient() -> None:
    schedule, (noise, v) = published(), outputs()
    loss_at(
        Hybrid(schedule, 1 / schedule.num_train_timesteps), schedule, noise, v, HYBRID["t"]
    ).sum().backward()
    assert v.grad.flatten()[:3].tolist() == pytest.approx(HYBRID["vb_grad_v_first3"], rel=3e-3, abs=0)
    assert float(v.grad.sum()) == pytest.approx(HYBRID["vb_grad_v_sum"], rel=3e-3, abs=0)


def test_the_variational_loss_trains_the_mean_too() -> None:
    schedule, (noise, v) = published(), outputs()
    loss_at(VLB(schedule), schedule, noise, v, 500).sum().backward()
    # d/d noise of coef1^2 (x0 - estimate)^2 / (2 variance), and the estimate falls by r/s of the noise.
    abar = schedule.alphas_cumprod[500]
    variance = (schedule.posterior_log_variance_clipped[500]).exp()
    excess = (image("v_out") + 1) / 2 * (schedule.betas[500].log() - variance.log())
    weight = schedule.posterior_mean_coef1[500] ** 2 * (1 - abar) / abar / (variance * excess.exp())
    expected = 1000 * weight * (noise.detach() - image("noise")) / 48 / torch.tensor(2.0).log()
    assert torch.allclose(noise.grad.double(), expected.double(), rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize("loss", [Hybrid, VLB])
def test_a_loss_of_variances_wants_a_network_that_has_them(loss: type[Hybrid] | type[VLB]) -> None:
    with pytest.raises(RecipeError, match="networks.denoiser.learned_variance = true"):
        loss_at(loss(published()), published(), image("eps_out"), None, 500)


@pytest.mark.parametrize("loss", [Hybrid, VLB])
def test_autocast_does_not_reach_the_loss(loss: type[Hybrid] | type[VLB]) -> None:
    schedule, (noise, v) = published(), outputs()
    with torch.autocast("cpu", torch.bfloat16):
        below = loss_at(loss(schedule), schedule, noise, v, 1)
    assert below.dtype == torch.float32
    assert torch.equal(below, loss_at(loss(schedule), schedule, noise, v, 1))
