"""Diffusion-GAN: what the discriminator sees, and how far along the chain."""

import pytest
import torch
from gan_networks import ONE_STEP, Fixed, step_of
from torch import nn
from torch.nn.functional import relu

from toolkit import Batch, RecipeError
from toolkit_gan.augmentation import Diffusion
from toolkit_gan.interfaces import Discriminator
from toolkit_gan.objective import GAN
from toolkit_gan.sngan import SNGANDiscriminator, sinusoids


class Told(Discriminator):
    """D(x) = sum of x; it keeps what it has seen, and at which t."""

    def __init__(self, timed=True):
        super().__init__()
        self.timed, self.seen, self.times = timed, [], []
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x, label=None, t=None):
        self.seen.append(x.detach())
        self.times.append(t)
        return self.one * x.flatten(1).sum(1)


def test_images_follow_the_chain_in_mean_and_variance():
    diffusion = Diffusion(most=10, beta_start=0.1, beta_end=0.4, noise_std=0.5)
    abar = torch.cumprod(1 - torch.linspace(0.1, 0.4, 10), 0)
    torch.manual_seed(0)
    for t in (1, 7, 10):
        seen = diffusion(torch.full((200_000, 2), 3.0), torch.full((200_000,), t))
        assert seen.mean().item() == pytest.approx(3 * abar[t - 1].sqrt().item(), abs=0.01)
        assert seen.std().item() == pytest.approx(0.5 * (1 - abar[t - 1]).sqrt().item(), rel=0.01)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(diffusion(x, torch.zeros(4, dtype=torch.int64)), x)


def test_times_are_uniform_from_0_to_the_reach():
    diffusion = Diffusion(least=3, most=9)
    torch.manual_seed(0)
    counts = diffusion.draw(40_000, torch.device("cpu")).bincount(minlength=10)
    assert counts[:4].tolist() == pytest.approx([10_000] * 4, rel=0.05) and counts[4:].sum() == 0


def test_the_reach_moves_by_every_fourth_update_and_stays_within_its_bounds():
    """By (most - least) / images for each real image seen; the target 0.6 is met by 80 % that are above 0."""
    diffusion = Diffusion(least=5, most=105, images=800)

    def after(*updates):
        for share in updates:
            diffusion.observe(torch.cat([torch.ones(round(10 * share)), -torch.ones(10 - round(10 * share))]))
        return diffusion.reach.item()

    assert after(1, 1, 1) == 5
    assert after(1) == 10  # 40 images of 800, up
    assert after(0.9, 0.9, 0.8, 0.8) == 15  # 0.7 on average, still above
    assert after(0.7, 0.9, 0.8, 0.7) == 10  # 0.55
    assert after(*[0.0] * 12) == 5
    assert after(*[1.0] * 4 * 25) == 105


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_real_and_generated_images_are_seen_at_one_time(loss):
    judge, x = Told(), torch.ones(6, 2)
    networks = {"generator": Fixed(), "discriminator": judge}
    augment = Diffusion(least=400, noise_std=1e-6)
    objective = GAN(ONE_STEP, loss, r1_gamma=1.0, r2_gamma=1.0, augment=augment, fakes_per_real=2)
    of_discriminator, of_generator = objective.turns()
    result = of_discriminator.loss(Batch(x, None, 0), step_of(networks))
    real, fake, r1, r2 = judge.times
    assert real.unique().numel() > 2 and torch.equal(real, fake)
    assert torch.equal(r1, real) and torch.equal(r2, real)
    torch.testing.assert_close(judge.seen[0], augment.alpha[real][:, None].expand(6, 2), atol=1e-4, rtol=0)
    assert torch.equal(judge.seen[2], judge.seen[0]) and torch.equal(judge.seen[3], judge.seen[1])
    assert torch.equal(result.records["real"], judge.seen[0].sum(1))
    assert result.logs["diffusion_steps"] == 400
    judge.times.clear()
    of_generator.loss(Batch(x, None, 0), step_of(networks))
    assert [len(t) for t in judge.times] == ([12, 12] if loss == "relativistic" else [12])
    assert all(torch.equal(t, judge.times[0]) for t in judge.times)


def test_only_the_discriminators_turn_moves_the_reach():
    objective = GAN(ONE_STEP, "hinge", augment=Diffusion(every=1, images=100))
    objective.observe("generator", {"real": torch.ones(10)})
    assert objective.augment.reach == 5
    objective.observe("discriminator", {"real": torch.ones(10)})
    assert objective.augment.reach == pytest.approx(5 + 49.5)
    assert "augment.reach" in objective.state_dict()


def test_a_discriminator_may_be_told_the_time_only_where_there_is_one():
    networks = {"generator": Fixed(), "discriminator": Told()}
    with pytest.raises(RecipeError, match=r"networks.discriminator.timed .*: add \[objective.augment\]"):
        GAN(ONE_STEP, "hinge").turns()[0].loss(Batch(torch.ones(2, 2), None, 0), step_of(networks))
    blind = {"generator": Fixed(), "discriminator": Told(timed=False)}
    turn = GAN(ONE_STEP, "hinge", augment=Diffusion()).turns()[0]
    turn.loss(Batch(torch.ones(2, 2), None, 0), step_of(blind))
    assert blind["discriminator"].times == [None, None]


def test_time_adds_the_features_in_the_direction_of_its_vector():
    torch.manual_seed(0)
    plain = SNGANDiscriminator((1, 8, 8), width=4, spectral_norm=False)
    told = SNGANDiscriminator((1, 8, 8), width=4, spectral_norm=False, timed=True)
    told.load_state_dict(plain.state_dict(), strict=False)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 400])
    features = relu(plain.blocks(x)).sum((2, 3))
    expected = plain(x) + (features * told.time_projection(sinusoids(t))).sum(1)
    assert torch.allclose(told(x, t=t), expected, atol=1e-5)


def test_bounds_that_cross_are_refused():
    with pytest.raises(ValueError, match="least 600 is above most 500"):
        Diffusion(least=600)
