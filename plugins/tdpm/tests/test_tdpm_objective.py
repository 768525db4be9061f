"""Truncated diffusion at both its ends, and losses against closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from toolkit import (
    Batch,
    Denoiser,
    Loss,
    NoiseSchedule,
    Objective,
    Prediction,
    RecipeError,
    Sampler,
    Start,
    Step,
    load_plugins,
    testing,
)
from toolkit_tdpm.conformance import cases
from toolkit_tdpm.objective import TDPM

CHAIN = {"type": "linear", "num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2}
ONE_STEP = {"type": "betas", "betas": [1.0]}


@testing.parametrize_with_checks(cases())
def test_conformance(case: testing.Case, check: testing.Check) -> None:
    check(case)


def create(kind: type, schedule: NoiseSchedule | None = None, **table: Any) -> Any:
    supplied = {"schedule": schedule, "num_classes": None, "sample_shape": (2,)}
    return load_plugins().registry.create(kind, table, supplied=supplied, where=lambda path: "test")


def path(**table: Any) -> NoiseSchedule:
    made: NoiseSchedule = create(NoiseSchedule, **(table or CHAIN))
    return made


def networks_on(schedule: NoiseSchedule) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "denoiser": create(Denoiser, schedule, type="ddpm_mlp", width=8),
        "generator": create(Denoiser, schedule, type="gan_mlp_generator", width=8),
        "discriminator": create(nn.Module, schedule, type="gan_mlp_discriminator", width=8),
    }


def take(objective: Objective, networks: dict[str, Any], name: str, images: Tensor | None = None) -> Loss:
    """The loss of a turn after its backward pass, from the same draws every time."""
    turn = next(turn for turn in objective.turns() if turn.name == name)
    for role, network in networks.items():
        network.requires_grad_(role in turn.trains).zero_grad()
    torch.manual_seed(1)
    images = torch.randn(64, 2) if images is None else images
    step = Step(0, 0, torch.device("cpu"), networks, networks, torch.enable_grad)
    loss = turn.loss(Batch(images, None, 0), step)
    loss.total.backward()
    return loss


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def test_the_whole_chain_is_ddpm() -> None:
    schedule = path()
    networks, images = networks_on(schedule), torch.randn(64, 2)
    ddpm = create(Objective, schedule, type="denoising")
    whole = create(Objective, schedule, type="tdpm", t_trunc=100)
    assert whole.roles == ddpm.roles and whole.samples == ddpm.samples
    assert [(turn.name, turn.trains) for turn in whole.turns()] == [("denoiser", ("denoiser",))]
    expected, slopes = take(ddpm, networks, "denoiser", images), gradients(networks["denoiser"])
    assert torch.equal(take(whole, networks, "denoiser", images).total, expected.total)
    assert all(torch.equal(a, b) for a, b in zip(gradients(networks["denoiser"]), slopes, strict=True))


@pytest.mark.parametrize("loss", ["non_saturating", "hinge"])
def test_no_chain_is_a_gan(loss: str) -> None:
    schedule = path(**ONE_STEP)
    networks, images = networks_on(path()), torch.randn(64, 2)
    del networks["denoiser"]
    gan = create(Objective, schedule, type="gan", loss=loss, r1_gamma=0.3, n_dis=3)
    none = create(Objective, schedule, type="tdpm", t_trunc=0, adversarial=loss, r1_gamma=0.3, n_dis=3)
    assert set(none.roles) == set(gan.roles) and none.samples == gan.samples and not none.measures()
    assert [(t.name, t.trains, t.times, t.second_order) for t in none.turns()] == [
        (t.name, t.trains, t.times, t.second_order) for t in gan.turns()
    ]
    for turn in ("discriminator", "generator"):
        expected, slopes = take(gan, networks, turn, images), gradients(networks[turn])
        assert take(none, networks, turn, images).total.item() == pytest.approx(
            expected.total.item(), rel=1e-6
        )
        assert all(torch.allclose(a, b) for a, b in zip(gradients(networks[turn]), slopes, strict=True))


class Fixed(Denoiser):
    """Draws the same image always; remembers at which times it was asked."""

    respaceable = False

    def __init__(self, schedule: NoiseSchedule, value: float, name: str = "x0") -> None:
        super().__init__()
        self.schedule, self.name = schedule, name
        self.value, self.seen = nn.Parameter(torch.tensor(value)), list[Tensor]()

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        self.seen.append(t)
        return Prediction(self.schedule, x_t, t, **{self.name: self.value.expand_as(x_t)})  # type: ignore[arg-type]


class Linear(nn.Module):
    """The logit a x_1; remembers what it saw."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a, self.seen = nn.Parameter(torch.tensor(a)), list[Tensor]()

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(x.detach())
        return self.a * x[:, 0]


@pytest.mark.parametrize(
    ("adversarial", "cost"), [("non_saturating", softplus), ("hinge", lambda d: relu(1 + d))]
)
def test_the_discriminator_sees_data_and_images_at_the_noise_of_the_cut(adversarial: str, cost: Any) -> None:
    schedule = path()
    objective = TDPM(schedule, 30, create_loss(schedule), adversarial, r1_gamma=0.5)  # type: ignore[arg-type]
    networks = {
        "denoiser": Fixed(schedule, 0.0),
        "generator": Fixed(schedule, -1.0),
        "discriminator": Linear(0.7),
    }
    loss = take(objective, networks, "discriminator", torch.ones(20_000, 2))
    real, fake = networks["discriminator"].seen
    alpha, sigma = (float(scale) for scale in schedule.at(29, real))
    for seen, mean in ((real, alpha), (fake, -alpha)):
        assert (seen.mean().item(), seen.std().item()) == pytest.approx((mean, sigma), abs=0.02)
    assert loss.logs["r1"].item() == pytest.approx(0.7**2)  # the slope is (a, 0) everywhere
    expected = cost(-0.7 * real[:, 0]).mean() + cost(0.7 * fake[:, 0]).mean() + 0.25 * 0.7**2
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)

    loss = take(objective, networks, "generator", torch.ones(20_000, 2))
    logits = 0.7 * networks["discriminator"].seen[-1][:, 0]
    expected = softplus(-logits).mean() if adversarial == "non_saturating" else -logits.mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    weight = torch.sigmoid(-logits).mean() if adversarial == "non_saturating" else torch.tensor(1.0)
    assert networks["generator"].value.grad.item() == pytest.approx(-0.7 * alpha * weight.item(), rel=1e-4)


def create_loss(schedule: NoiseSchedule) -> Any:
    from toolkit import DenoisingLoss

    return create(DenoisingLoss, schedule, type="squared_error")


def test_the_denoiser_is_trained_below_the_cut_alone() -> None:
    schedule = path()
    networks = {"denoiser": Fixed(schedule, 0.0, "noise")}
    objective = create(Objective, schedule, type="tdpm", t_trunc=30)
    take(objective, networks, "denoiser", torch.zeros(5000, 2))
    (times,) = networks["denoiser"].seen
    assert sorted(set(times.tolist())) == list(range(30))
    assert [(turn.name, turn.times) for turn in objective.turns()] == [
        ("discriminator", 1), ("generator", 1), ("denoiser", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("schedule", "t_trunc", "message"), [
    (CHAIN, 101, "must be from 0 to 100, the length of the chain, not 101"),
    (CHAIN, 0, "t_trunc = 0 is a GAN, on a chain of one step of pure noise"),
    ({"type": "rectified_flow"}, 1, "Chain"),
])  # fmt: skip
def test_cuts_that_a_chain_does_not_have_are_refused(
    schedule: dict[str, Any], t_trunc: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        create(Objective, path(**schedule), type="tdpm", t_trunc=t_trunc)


@pytest.mark.parametrize(("t_trunc", "start", "message"), [
    (30, {"type": "noise"}, 'knows t_trunc = 30 steps: set type = "tdpm" and the same t_trunc'),
    (30, {"type": "tdpm", "t_trunc": 31}, 'knows t_trunc = 30 steps: set type = "tdpm" and the same t_trunc'),
    (100, {"type": "tdpm", "t_trunc": 31}, "with objective.t_trunc = 100 samples start from noise"),
])  # fmt: skip
def test_a_start_that_does_not_fit_is_refused(t_trunc: int, start: dict[str, Any], message: str) -> None:
    schedule = path()
    objective = create(Objective, schedule, type="tdpm", t_trunc=t_trunc)
    sampler = create(Sampler, schedule, type="ancestral")
    with pytest.raises(RecipeError, match=message):
        objective.refuse_sampling(sampler, create(Start, schedule, **start))
    fits = {"type": "noise"} if t_trunc == 100 else {"type": "tdpm", "t_trunc": t_trunc}
    objective.refuse_sampling(sampler, create(Start, schedule, **fits))


@pytest.mark.parametrize(("role", "network", "message"), [
    ("discriminator", nn.Linear(2, 1), "a Linear does not judge images alone"),
    ("discriminator", "conditional", "a Linear does not judge images alone"),
    ("generator", "conditional", "conditional must be false: walks start from no class"),
    ("denoiser", "conditional", "conditional must be false: walks start from no class"),
    ("generator", "noise", "predicts the noise: it must draw x_0"),
])  # fmt: skip
def test_networks_that_do_not_fit_are_refused(role: str, network: Any, message: str) -> None:
    schedule = path()
    networks = {**networks_on(schedule), "discriminator": Linear(1.0)}
    objective = create(Objective, schedule, type="tdpm", t_trunc=30)
    if network == "conditional":
        networks[role].conditional = True  # type: ignore[assignment]
    else:
        networks[role] = Fixed(schedule, 0.0, "noise") if network == "noise" else network
    with pytest.raises(RecipeError, match=message):
        take(objective, networks, "denoiser" if role == "denoiser" else "discriminator")


def test_a_null_class_that_nothing_teaches_is_refused() -> None:
    schedule = path()
    networks = {"denoiser": Fixed(schedule, 0.0)}
    networks["denoiser"].null_class = True
    with pytest.raises(RecipeError, match="null_class must be false: no label is dropped here"):
        take(create(Objective, schedule, type="tdpm", t_trunc=100), networks, "denoiser")
