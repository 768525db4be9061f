from functools import partial

import pytest
import torch
from gan_networks import ONE_STEP, Fixed, Linear, has_gradient, small_networks, step_of, take
from torch import nn

from toolkit import Batch, RecipeError
from toolkit.diffusion.chain import listed_betas
from toolkit_gan.dcgan import DCGANDiscriminator, DCGANGenerator
from toolkit_gan.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    relativistic_loss,
    squared_difference,
    squared_slope,
)
from toolkit_gan.objective import GAN

REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25, 1.0])


@pytest.mark.parametrize(("kind", "of_discriminator", "of_generator"), [
    # log(1 + e^-2) + log(1 + e^-.5) + log(1 + e), over 3; and log(1 + e^-3) + log(1 + e^.25) + log(1 + e)
    ("non_saturating", (0.126928 + 0.474077 + 1.313262 + 0.048587 + 0.825939 + 1.313262) / 3,
     (3.048587 + 0.575939 + 0.313262) / 3),
    ("hinge", (0 + 0.5 + 2 + 0 + 1.25 + 2) / 3, (3 - 0.25 - 1) / 3),
    ("wasserstein", (-2 - 0.5 + 1 - 3 + 0.25 + 1) / 3, (3 - 0.25 - 1) / 3),
])  # fmt: skip
def test_losses_equal_those_computed_by_hand(kind, of_discriminator, of_generator):
    assert discriminator_loss(kind, REAL, FAKE).item() == pytest.approx(of_discriminator, rel=1e-5)
    assert generator_loss(kind, FAKE).item() == pytest.approx(of_generator, rel=1e-5)


def test_the_relativistic_loss_compares_pairs():
    # log(1 + e^(-3 - 2)) + log(1 + e^(.25 - .5)) + log(1 + e^(1 + 1)), over 3; the other way round for G
    assert discriminator_loss("relativistic", REAL, FAKE).item() == pytest.approx(0.903194, rel=1e-5)
    assert relativistic_loss(REAL, FAKE).item() == pytest.approx(1.986528, rel=1e-5)


def test_the_generator_of_a_relativistic_pair_looks_at_as_many_real_images():
    networks, x = {"generator": Fixed(), "discriminator": Linear(3.0, 4.0)}, torch.randn(5, 2)
    objective = GAN(ONE_STEP, "relativistic", fakes_per_real=2)
    turn = next(turn for turn in objective.turns() if turn.name == "generator")
    loss = turn.loss(Batch(x, None, 0), step_of(networks))
    fake, real = networks["discriminator"].seen
    assert torch.equal(real, torch.cat([x, x]))
    of_fake, of_real = (seen @ torch.tensor([3.0, 4.0]) for seen in (fake, real))
    assert loss.total.item() == pytest.approx(relativistic_loss(of_real, of_fake).item(), rel=1e-5)


def test_finite_differences_have_the_mean_of_the_exact_penalty_and_of_its_gradient():
    """On a linear critic, where (w . n)^2 is exact for each n; and within 1 % on a small network."""
    torch.manual_seed(0)
    critic = Linear(3.0, 4.0)
    penalty = squared_difference(critic, torch.zeros(50_000, 2))
    penalty.backward()
    assert penalty.item() == pytest.approx(25, rel=0.02)
    assert critic.w.grad.tolist() == pytest.approx([6, 8], rel=0.03)
    network = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0)).double()
    x = torch.randn(8, 2, dtype=torch.float64)
    estimate = squared_difference(network, x.repeat(50_000, 1))
    assert estimate.item() == pytest.approx(squared_slope(network, x).item(), rel=0.01)


def test_finite_differences_see_the_same_weights_twice():
    """Spectral normalisation takes a power iteration in each pass, which a difference would multiply."""
    networks = small_networks()
    options = {"r1_gamma": 1.0, "r2_gamma": 1.0, "slopes": "finite_differences"}
    take(GAN(ONE_STEP, "relativistic", **options), "discriminator", networks)
    with torch.no_grad():
        for parameter in networks["discriminator"].parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # far from what the vectors are of
    torch.manual_seed(1)
    still = squared_difference(networks["discriminator"], torch.zeros(2, 1, 8, 8)).item()
    assert still < 3  # measured: 0.33, and 116 from two passes


def test_only_exact_slopes_are_of_second_order_and_differences_are_of_something():
    def twice(**options):
        return GAN(ONE_STEP, "relativistic", **options).turns()[0].second_order

    assert twice(r2_gamma=1.0) == twice(gp_weight=1.0) == ("discriminator",)
    assert twice(r1_gamma=1.0, r2_gamma=1.0, slopes="finite_differences") == ()
    with pytest.raises(ValueError, match="r1_gamma and r2_gamma are both 0"):
        twice(gp_weight=1.0, slopes="finite_differences")


def test_penalties_of_a_linear_critic_equal_their_closed_forms():
    critic, real, fake = Linear(3.0, 4.0), torch.randn(5, 2), torch.randn(5, 2)
    penalty = gradient_penalty(critic, real, fake)
    penalty.backward()
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    assert critic.w.grad.tolist() == pytest.approx([2 * (5 - 1) * 3 / 5, 2 * (5 - 1) * 4 / 5])
    critic.zero_grad()
    penalty = squared_slope(critic, real)
    penalty.backward()
    assert penalty.item() == pytest.approx(25) and critic.w.grad.tolist() == pytest.approx([6, 8])


def test_a_flat_critic_has_a_finite_gradient_penalty():
    critic = Linear(0.0, 0.0)
    penalty = gradient_penalty(critic, torch.randn(3, 2), torch.randn(3, 2))
    penalty.backward()
    assert penalty.item() == 1 and critic.w.grad.isfinite().all()


def test_the_gradient_penalty_looks_between_each_real_image_and_a_generated_one():
    critic, real, fake = Linear(1.0, 1.0), torch.randn(50, 2), torch.randn(50, 2)
    gradient_penalty(critic, real, fake)
    share = (critic.seen[0] - fake) / (real - fake)
    assert torch.allclose(share[:, 0], share[:, 1], atol=1e-3)  # one for all of an image
    assert 0 <= share.min() < 0.1 and 0.9 < share.max() <= 1


@pytest.mark.parametrize(("options", "name", "expected"), [
    ({"gp_weight": 10.0}, "gp", 10 * 16), ({"gp_weight": 10.0, "penalty_every": 4}, "gp", 4 * 10 * 16),
    ({"r1_gamma": 0.2}, "r1", 0.1 * 25), ({"r2_gamma": 0.2}, "r2", 0.1 * 25),
])  # fmt: skip
def test_penalties_enter_the_loss_with_their_weights(options, name, expected):
    networks, x = {"generator": Fixed(), "discriminator": Linear(3.0, 4.0)}, torch.randn(5, 2)
    objective = GAN(ONE_STEP, "wasserstein", **options)
    loss = take(objective, "discriminator", networks, images=x)
    rest = loss.logs["fake"] - loss.logs["real"]
    assert (loss.total - rest).item() == pytest.approx(expected, rel=1e-5)
    assert loss.logs[name].item() == pytest.approx(16 if name == "gp" else 25, rel=1e-5)
    twice = {turn.name: turn.second_order for turn in objective.turns()}
    assert twice == {"discriminator": ("discriminator",), "generator": ()}


def test_lazy_penalties_count_the_updates_of_the_discriminator():
    networks, objective = small_networks(), GAN(ONE_STEP, "hinge", n_dis=2, r1_gamma=1.0, penalty_every=3)
    taken = [
        "r1" in take(objective, "discriminator", networks, number, repetition).logs
        for number in range(4)
        for repetition in range(2)
    ]
    assert taken == [True, False, False, True, False, False, True, False]


def test_penalties_are_taken_in_float32_under_autocast():
    def penalty(autocast):
        networks = small_networks(spectral_norm=False)
        torch.manual_seed(0)
        real, fake = torch.randn(2, 6, 1, 8, 8)
        step = step_of(networks, float32=partial(torch.autocast, "cpu", enabled=False))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return GAN(ONE_STEP, "hinge", gp_weight=1.0)._penalties(real, fake, None, step)["gp"][1]

    assert torch.equal(penalty(autocast=True), penalty(autocast=False))


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wasserstein", "relativistic"])
@pytest.mark.parametrize("trained", ["generator", "discriminator"])
def test_a_turn_gives_gradients_to_its_own_network_alone(loss, trained):
    networks = small_networks()
    take(GAN(ONE_STEP, loss, gp_weight=1.0, r1_gamma=1.0), trained, networks)
    for role, network in networks.items():
        assert all(has_gradient(network)) if role == trained else not any(has_gradient(network))


@pytest.mark.parametrize("trained", ["generator", "discriminator"])
def test_dcgan_trains_all_its_parameters(trained):
    torch.manual_seed(0)
    networks = {
        "generator": DCGANGenerator(ONE_STEP, (1, 8, 8), 4, width=4),
        "discriminator": DCGANDiscriminator((1, 8, 8), width=4),
    }
    take(GAN(ONE_STEP, "non_saturating"), trained, networks)
    assert all(has_gradient(networks[trained]))


def test_the_generator_sees_pure_noise_and_fakes_follow_from_it():
    networks, x = {"generator": Fixed(), "discriminator": Linear(1.0, 1.0)}, torch.randn(500, 2)
    take(GAN(ONE_STEP, "hinge"), "discriminator", networks, images=x)
    real, fake = networks["discriminator"].seen
    assert torch.equal(real, x) and (fake.mean().item(), fake.std().item()) == pytest.approx((0, 2), abs=0.2)


def test_the_generators_batch_is_so_many_times_that_of_the_discriminator():
    networks = {"generator": Fixed(), "discriminator": Linear(1.0, 1.0)}
    objective = GAN(ONE_STEP, "hinge", fakes_per_real=2)
    with torch.no_grad():
        objective._generator_turn(Batch(torch.randn(5, 2), None, 0), step_of(networks))
    assert [len(seen) for seen in networks["discriminator"].seen] == [10]


def test_generated_images_have_the_classes_of_the_batch_and_are_judged_by_them():
    networks = {"generator": Fixed(), "discriminator": Linear(1.0, 1.0)}
    objective = GAN(ONE_STEP, "hinge", fakes_per_real=2, gp_weight=1.0, r1_gamma=1.0)
    batch = Batch(torch.randn(3, 2), torch.tensor([4, 0, 2]), 0)
    for turn in objective.turns():
        turn.loss(batch, step_of(networks))
    once, twice = [4, 0, 2], [4, 0, 2, 4, 0, 2]
    assert [label.tolist() for label in networks["generator"].asked] == [once, twice]
    # Real and generated images, both penalties; and the generator's turn.
    assert [label.tolist() for label in networks["discriminator"].asked] == [once, once, once, once, twice]


@pytest.mark.parametrize("conditional", [(True, False), (False, True)])
def test_a_conditional_network_is_not_trained_against_an_unconditional_one(conditional):
    networks = {"generator": Fixed(), "discriminator": Linear(1.0, 1.0)}
    networks["generator"].conditional, networks["discriminator"].conditional = conditional
    one, other = (str(value).lower() for value in conditional)
    for turn in GAN(ONE_STEP, "hinge").turns():
        with pytest.raises(RecipeError, match=f"conditional go together: they are {one} and {other}"):
            turn.loss(Batch(torch.randn(5, 2), torch.zeros(5), 0), step_of(networks))


def test_drift_is_the_mean_square_of_the_logits_of_real_images():
    networks, x = {"generator": Fixed(), "discriminator": Linear(3.0, 4.0)}, torch.randn(5, 2)
    loss = take(GAN(ONE_STEP, "wasserstein", drift=0.5), "discriminator", networks, images=x)
    drift = (3 * x[:, 0] + 4 * x[:, 1]).square().mean()
    assert loss.logs["drift"].item() == pytest.approx(drift.item(), rel=1e-5)
    plain = loss.logs["fake"] - loss.logs["real"]
    assert (loss.total - plain).item() == pytest.approx(drift.item() / 2, rel=1e-5)


def test_dequantisation_raises_real_images_by_less_than_a_grey_level():
    networks, x = {"generator": Fixed(), "discriminator": Linear(1.0, 1.0)}, torch.zeros(500, 2)
    take(GAN(ONE_STEP, "hinge", dequantise=1 / 128), "discriminator", networks, images=x)
    real, _ = networks["discriminator"].seen
    assert 0 <= real.min() < 1e-4 and 1 / 128 - 1e-4 < real.max() < 1 / 128


def test_instance_noise_covers_real_and_generated_images_in_both_turns():
    networks, x = {"generator": Fixed(), "discriminator": Linear(1.0, 1.0)}, torch.zeros(2000, 2)
    objective = GAN(ONE_STEP, "hinge", instance_noise=0.5)
    with torch.no_grad():
        for turn in objective.turns():
            turn.loss(Batch(x, None, 0), step_of(networks))
    stds = [seen.std().item() for seen in networks["discriminator"].seen]
    assert stds == pytest.approx([0.5, 4.25**0.5, 4.25**0.5], rel=0.05)


def test_the_held_out_loss_is_the_discriminators_without_penalties():
    networks = {"generator": Fixed(), "discriminator": Linear(3.0, 4.0)}
    objective, batch = GAN(ONE_STEP, "wasserstein", gp_weight=10.0), Batch(torch.randn(5, 2), None, 0)
    (measure,) = objective.measures()
    with torch.no_grad():
        loss = measure.loss(batch, step_of(networks))
    assert torch.equal(loss.total, loss.logs["fake"] - loss.logs["real"])


@pytest.mark.parametrize("betas", [[0.5], [0.5, 1.0]])
def test_other_chains_than_one_step_from_noise_are_refused(betas):
    with pytest.raises(ValueError, match="a one-shot GAN needs a chain of one step from pure noise"):
        GAN(listed_betas(betas), "hinge")
