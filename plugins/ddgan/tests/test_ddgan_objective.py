from contextlib import nullcontext
from functools import partial

import pytest
import torch
from ddgan_networks import light_generator
from ddgan_reference import vectors
from torch import nn
from torch.nn.functional import softplus

from toolkit import Batch, Denoiser, Prediction, Step, walk
from toolkit.diffusion.chain import vp_sde
from toolkit.diffusion.samplers import Ancestral
from toolkit_ddgan.discriminator import SmallDiscriminator, TransitionDiscriminator
from toolkit_ddgan.generator import PublishedGenerator
from toolkit_ddgan.objective import DDGAN, TurnDraws, squared_slope
from toolkit_ddgan.points import MLPDiscriminator, MLPGenerator


def networks_of(*roles):
    torch.manual_seed(0)
    judges = {role: SmallDiscriminator((1, 8, 8), channels=4, time_width=8) for role in roles}
    return {"denoiser": light_generator(), **judges}


def step_of(networks, number=0):
    return Step(number, 0, torch.device("cpu"), networks, networks, nullcontext)


def take(objective, name, networks, number=0, images=None, seed=0):
    """The loss of a turn, everything else frozen, after its backward pass."""
    turn = next(turn for turn in objective.turns() if turn.name == name)
    for role, network in networks.items():
        network.zero_grad()
        network.requires_grad_(role in turn.trains)
    if images is None:
        images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.manual_seed(seed)
    loss = turn.loss(Batch(images, None, 0), step_of(networks, number))
    loss.total.backward()
    return loss


def has_gradient(network):
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters()]


class Constant(Denoiser):
    """Says 0 whatever the image, and draws nothing."""

    def forward(self, x_t, t, *, s=None, label=None, latent=None):
        return Prediction(vp_sde(4), x_t, t, x0=torch.zeros_like(x_t))


class Noisy(Denoiser):
    """Says N(0, 1) whatever the image."""

    def forward(self, x_t, t, *, s=None, label=None, latent=None):
        return Prediction(vp_sde(4), x_t, t, x0=torch.randn_like(x_t))


class Quadratic(TransitionDiscriminator):
    """logit = a |x_s|^2 / 2 + <x_s, x_t>, whose slope in x_s is a x_s + x_t."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x_s, x_t, t):
        return self.a * x_s.square().flatten(1).sum(1) / 2 + (x_s * x_t).flatten(1).sum(1)


def test_loss_terms_equal_the_official_ones():
    official = vectors()["losses"]
    real, fake = torch.tensor(official["real_logits"]), torch.tensor(official["fake_logits"])
    assert softplus(-real).mean().item() == pytest.approx(official["D_real"], rel=1e-6)
    assert softplus(fake).mean().item() == pytest.approx(official["D_fake"], rel=1e-6)
    assert softplus(-fake).mean().item() == pytest.approx(official["G"], rel=1e-6)


def test_squared_slope_equals_its_closed_form():
    x_s, x_t = torch.randn(2, 3, 1, 4, 4)
    x_s.requires_grad_()
    slope = squared_slope(Quadratic(0.7)(x_s, x_t, None), x_s)
    assert torch.allclose(slope, (0.7 * x_s + x_t).square().flatten(1).sum(1), rtol=1e-5)


@pytest.mark.slow
def test_squared_slope_of_a_discriminator_equals_finite_differences():
    torch.manual_seed(0)
    judge = SmallDiscriminator((1, 8, 8), channels=4, time_width=8).double()
    for p in judge.parameters():
        nn.init.normal_(p, std=0.2)  # at its own initial weights it is flat
    x_s, x_t = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    t = torch.arange(4)
    direction, h = torch.zeros_like(x_s), 1e-6
    squares = torch.zeros(4, dtype=torch.float64)
    for row in range(4):
        for pixel in range(64):
            direction.zero_().view(4, 64)[row, pixel] = h
            difference = judge(x_s + direction, x_t, t).sum() - judge(x_s - direction, x_t, t).sum()
            squares[row] += (difference.detach() / (2 * h)) ** 2
    slope = squared_slope(judge(x_s.requires_grad_(), x_t, t), x_s)
    assert torch.allclose(slope, squares, rtol=1e-5)


def test_r1_by_finite_differences_has_the_mean_of_the_exact_one_and_is_of_first_order():
    def taken(slopes):
        judge = Quadratic(0.7)
        objective = DDGAN(vp_sde(4), r1_gamma=0.1, r1_slopes=slopes)
        networks, images = {"denoiser": Constant(), "discriminator": judge}, torch.zeros(20_000, 1, 2, 2)
        r1 = take(objective, "discriminator", networks, images=images).logs["r1"].item()
        return r1, judge.a.grad.item(), objective.turns()[0].second_order

    (exact, slope, twice), (estimate, its_slope, once) = taken("exact"), taken("finite_differences")
    assert estimate == pytest.approx(exact, rel=0.05) and its_slope == pytest.approx(slope, rel=0.05)
    assert (twice, once) == (("discriminator",), ())


def test_at_the_initial_weights_both_networks_are_undecided():
    networks = networks_of("discriminator")
    objective = DDGAN(vp_sde(4), r1_gamma=0.05)
    assert take(objective, "discriminator", networks).total.item() == pytest.approx(1.386294, abs=1e-4)
    assert take(objective, "denoiser", networks).total.item() == pytest.approx(0.693147, abs=1e-4)


def test_the_discriminator_turn_gives_gradients_to_the_discriminator_alone():
    networks = networks_of("discriminator")
    take(DDGAN(vp_sde(4), r1_gamma=0.05), "discriminator", networks)
    assert all(has_gradient(networks["discriminator"])) and not any(has_gradient(networks["denoiser"]))


def test_the_generator_turn_leaves_the_discriminator_without_gradients():
    networks = networks_of("discriminator")
    take(DDGAN(vp_sde(4), r1_gamma=0.05), "denoiser", networks)
    assert all(has_gradient(networks["denoiser"])) and not any(has_gradient(networks["discriminator"]))


def test_r1_is_taken_in_every_nth_step_from_the_first_on():
    networks = networks_of("discriminator")
    objective = DDGAN(vp_sde(4), r1_gamma=0.05, r1_every=3)
    taken = ["r1" in take(objective, "discriminator", networks, number).logs for number in range(7)]
    assert taken == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(("scaled", "factor"), [(False, 1), (True, 4)])
def test_r1_is_scaled_by_its_interval_only_on_request(scaled, factor):
    networks = {"denoiser": light_generator(), "discriminator": Quadratic(0.3)}
    objective = DDGAN(vp_sde(4), r1_gamma=0.6, r1_every=4, r1_scaled=scaled)
    with_r1 = take(objective, "discriminator", networks, 0)
    without = take(objective, "discriminator", networks, 1)
    added = with_r1.total - without.total
    assert torch.allclose(added, 0.3 * factor * with_r1.logs["r1"], rtol=1e-4)


def test_turns_draw_anew_for_every_seed():
    networks = networks_of("discriminator")
    nn.init.normal_(networks["discriminator"].trunk.last_conv.weight)
    objective = DDGAN(vp_sde(4), r1_gamma=0.05)
    one, other, again = (take(objective, "denoiser", networks, seed=seed).total for seed in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_z_sensitivity_is_the_standard_deviation_that_z_causes():
    (measure,) = DDGAN(vp_sde(4), r1_gamma=0.05).measures()
    torch.manual_seed(0)
    loss = measure.loss(Batch(torch.zeros(64, 1, 16, 16), None, 0), step_of({"denoiser": Noisy()}))
    assert loss.total.item() == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_the_published_generator_begins_at_zero_and_soon_moves_with_z():
    torch.manual_seed(0)
    generator = PublishedGenerator(vp_sde(4), (1, 8, 8), (8, 16), 1, attention_sides=(4,), latent_width=4)
    networks = {**networks_of("discriminator"), "denoiser": generator}
    assert generator(torch.randn(4, 1, 8, 8), torch.arange(4)).x0.abs().max() < 1e-3
    objective = DDGAN(vp_sde(4), r1_gamma=0.05)
    (measure,) = objective.measures()
    batch = Batch(torch.zeros(32, 1, 8, 8), None, 0)
    with torch.no_grad():
        before = measure.loss(batch, step_of(networks)).total
    adam = {role: torch.optim.Adam(networks[role].parameters(), 1e-2, (0.5, 0.9)) for role in networks}
    for number in range(15):
        for turn in objective.turns():
            take(objective, turn.name, networks, number, seed=number)
            adam[turn.name].step()
    with torch.no_grad():
        assert measure.loss(batch, step_of(networks)).total > max(1e-3, 10 * before)


def test_sampling_and_training_know_no_number_of_dimensions():
    networks = {
        "denoiser": MLPGenerator(vp_sde(4), (2,), width=8),
        "discriminator": MLPDiscriminator((2,), width=8),
    }
    objective = DDGAN(vp_sde(4), r1_gamma=1.0)
    for turn in ("discriminator", "denoiser"):
        loss = take(objective, turn, networks, images=torch.randn(6, 2))
        assert loss.total.isfinite()
    chain = vp_sde(4)
    x0 = walk(Ancestral(chain), networks["denoiser"], chain, torch.randn(6, 2), chain.grid(None, None))
    assert x0.shape == (6, 2)


def test_without_weight_there_is_no_discriminator_of_x0():
    objective = DDGAN(vp_sde(4), r1_gamma=0.05)
    assert set(objective.roles) == {"denoiser", "discriminator"}
    assert set(DDGAN(vp_sde(4), r1_gamma=0.05, x0_weight=0.1).roles) == {*objective.roles, "x0_discriminator"}


def test_the_discriminator_of_x0_is_trained_in_the_same_turn_and_reaches_the_generator():
    networks = networks_of("discriminator", "x0_discriminator")
    objective = DDGAN(vp_sde(4), r1_gamma=0.05, x0_weight=0.5)
    loss = take(objective, "discriminator", networks)
    assert {"real", "fake", "r1", "x0_real", "x0_fake", "x0_r1"} == set(loss.logs)
    assert all(has_gradient(networks["x0_discriminator"])) and not any(has_gradient(networks["denoiser"]))
    take(objective, "denoiser", networks)
    assert all(has_gradient(networks["denoiser"])) and not any(has_gradient(networks["x0_discriminator"]))


def test_the_discriminator_of_x0_counts_for_the_generator_only_above_t_0():
    objective = DDGAN(vp_sde(4), r1_gamma=0.05, x0_weight=0.5)
    networks = {"denoiser": Constant(), "discriminator": Quadratic(0.0), "x0_discriminator": Quadratic(0.0)}
    x0 = torch.randn(4, 2)
    for t, expected in ((0, 0.0), (3, 0.693147)):  # the logits of 0 are 0
        draws = TurnDraws(torch.full((4,), t), *torch.randn(3, 4, 2))
        loss = objective.denoiser_loss(x0, draws, step_of(networks))
        assert loss.logs["x0_adversarial"].item() == pytest.approx(expected, abs=1e-6)


def test_turning_the_discriminator_of_x0_on_changes_no_draw_of_the_other():
    networks = networks_of("discriminator", "x0_discriminator")
    nn.init.normal_(networks["discriminator"].trunk.last_conv.weight)
    off, on = (DDGAN(vp_sde(4), r1_gamma=0.05, x0_weight=weight) for weight in (0.0, 0.5))
    for name in ("real", "fake", "r1"):
        baseline = take(off, "discriminator", networks).logs[name]
        assert torch.equal(baseline, take(on, "discriminator", networks).logs[name])


def test_the_l1_term_is_the_mean_distance_from_the_clean_image():
    networks = {"denoiser": Constant(), "discriminator": Quadratic(0.0)}
    x0, draws = torch.rand(4, 2), TurnDraws(torch.arange(4), *torch.randn(3, 4, 2))
    plain, extra = (
        DDGAN(vp_sde(4), r1_gamma=0.05, l1_weight=weight).denoiser_loss(x0, draws, step_of(networks))
        for weight in (0.0, 2.0)
    )
    assert (extra.total - plain.total).item() == pytest.approx(2 * x0.mean().item(), rel=1e-5)


def test_under_autocast_r1_is_still_taken_in_float32():
    def r1(autocast):
        networks = networks_of("discriminator")
        nn.init.normal_(networks["discriminator"].trunk.last_conv.weight)
        objective = DDGAN(vp_sde(4), r1_gamma=0.05)
        images = torch.linspace(-1, 1, 8 * 64).view(8, 1, 8, 8)
        torch.manual_seed(0)
        draws = objective.draw(images)
        float32 = partial(torch.autocast, "cpu", enabled=False)
        step = Step(0, 0, torch.device("cpu"), networks, networks, float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return objective.discriminator_loss(images, draws, step).logs["r1"]

    assert torch.equal(r1(autocast=True), r1(autocast=False))
