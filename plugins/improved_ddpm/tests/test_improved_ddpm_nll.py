"""The likelihood of images: against published numbers, and against data whose likelihood is known."""

import math

import pytest
import torch
from improved_ddpm_reference import SHAPE, ExactForGaussians, image, vectors
from torch import Tensor

from toolkit import (
    Chain,
    DataError,
    DataSource,
    Denoiser,
    NoiseSchedule,
    Pipeline,
    Prediction,
    RecipeError,
    Sampler,
    Subject,
)
from toolkit.pipeline.folder import Saved
from toolkit.registry import load as plugins
from toolkit_improved_ddpm.bound import Bound
from toolkit_improved_ddpm.nll import NLL, terms
from toolkit_improved_ddpm.schedule import cosine_betas

STD = 0.25  # four of them end where the pixels' levels do


class Proportional(Denoiser):
    """The model of the published full chain."""

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
        fraction = (0.1 * x_t + 1) / 2
        return Prediction(self.schedule, x_t, t, noise=0.3 * x_t, variance_fraction=fraction)


class Pictures(DataSource):
    """Pictures of Gaussian noise, or whatever else they are given."""

    num_classes = None

    def __init__(self, images: Tensor) -> None:
        self.images, self.image_shape = images, tuple(images.shape[1:])

    @classmethod
    def of_noise(cls, num: int) -> "Pictures":
        pixels = torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * STD
        return cls(((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Tensor) -> tuple[Tensor, None]:
        return self.images[indices], None

    def bits(self) -> float:
        """Bits per dimension that these very pictures have under the distribution that they are from."""
        x = (self.images.double() / 127.5 - 1).flatten()
        density = -((x / STD) ** 2) / 2 - math.log(STD * math.sqrt(2 * math.pi))
        return float(-density.mean() / math.log(2) - math.log2(2 / 255))


CHAIN = {"type": "cosine_betas", "num_train_timesteps": 30}


def subject(source: DataSource, learned: bool = True, **sampler: str) -> Subject:
    """A model of Gaussian noise without fault, and images to score it by."""
    registry = plugins.load().registry.copy()
    registry.add(Denoiser, "exact_for_gaussians", ExactForGaussians)
    tables = {
        "schedule": CHAIN, "network": {"type": "exact_for_gaussians", "std": STD, "learned": learned},
        "sampler": {"type": "ancestral", **sampler}, "start": {"type": "noise"},
    }  # fmt: skip
    tables["sampler"] = registry.resolve(Sampler, tables["sampler"])
    saved = Saved(sample_shape=source.image_shape, num_classes=None, **tables)
    return Subject(Pipeline.from_saved(saved, registry, "here"), source, lambda done, total: None)


def test_the_published_full_chain_comes_out() -> None:
    official = vectors()["nll_full_chain_T4"]
    schedule = Chain(official["betas"])
    x0, bound = image("x0"), Bound(schedule)
    noise = torch.tensor(official["noise_by_index"]).view(4, *SHAPE[1:])
    bits, _ = terms(Proportional(schedule), bound, x0.expand_as(noise), torch.arange(4), noise, clip=False)
    assert bits.tolist() == pytest.approx(official["vb_bits_by_index"], rel=2e-6)
    assert float(bound.prior(x0)) == pytest.approx(official["prior_bits"], rel=2e-6)
    assert float(bits.sum() + bound.prior(x0)) == pytest.approx(official["total_bpd"], rel=1e-6)


def test_a_model_without_fault_is_as_likely_as_the_data_allow() -> None:
    """With the exact mean and variance of every step the bound is the likelihood itself."""
    source = Pictures.of_noise(100)
    score = NLL(clip=False).measure(subject(source))
    assert score.values["bits_per_dim"] == pytest.approx(source.bits(), abs=0.01)


def test_any_other_variance_makes_the_images_less_likely() -> None:
    source = Pictures.of_noise(20)
    bits = {
        name: NLL(name, clip=False).measure(subject(source)).values["bits_per_dim"]
        for name in (None, "fixed_small", "fixed_large")
    }
    assert bits[None] < bits["fixed_small"] - 0.1 and bits[None] < bits["fixed_large"] - 0.1


@pytest.mark.parametrize("steps", [None, 6])
def test_the_terms_are_those_of_the_chain_that_is_visited(steps: int | None) -> None:
    """With the posterior's variance a term is coef1^2 Var(x_0 | x_t) / (2 posterior variance)."""
    source = Pictures.of_noise(200)
    curves = NLL("fixed_small", clip=False, num_inference_steps=steps).measure(subject(source)).curves
    schedule = cosine_betas(30)
    if steps is not None:
        schedule = schedule.respace([0, 6, 12, 17, 23, 29])
    kept = schedule.timesteps
    assert curves["timesteps"] == kept.tolist()
    abar = schedule.alphas_cumprod[kept]
    spread = 1 / (1 / STD**2 + abar / (1 - abar))
    ratio = schedule.posterior_mean_coef1[kept] ** 2 / schedule.posterior_variance[kept]
    expected = (ratio * spread / 2 / math.log(2)).tolist()
    assert curves["bits_per_dim"][1:] == pytest.approx(expected[1:], rel=0.06)
    # The error of the noise is that of x_0, times the signal-to-noise ratio.
    assert curves["noise_mse"] == pytest.approx((abar / (1 - abar) * spread).tolist(), rel=0.06)


def test_the_score_is_made_of_its_parts() -> None:
    score = NLL(images=20).measure(subject(Pictures.of_noise(30)))
    parts = sum(score.curves["bits_per_dim"]) + score.values["prior"]
    assert score.values["bits_per_dim"] == pytest.approx(parts)
    assert score.values["noise_mse"] == pytest.approx(sum(score.curves["noise_mse"]) / 30)


def test_the_standard_error_is_what_other_images_would_change() -> None:
    """Over parts of the set the means scatter by it."""
    source, metric = Pictures.of_noise(200), NLL(clip=False, num_inference_steps=6)
    parts = [metric.measure(subject(Pictures(images))).values for images in source.images.split(20)]
    means = torch.tensor([part["bits_per_dim"] for part in parts])
    stated = torch.tensor([part["standard_error"] for part in parts]).square().mean().sqrt()
    assert float(means.std() / stated) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_score_does_not_depend_on_the_batches(batch_size: int) -> None:
    source = Pictures.of_noise(5)
    whole, other = (NLL(batch_size=b).measure(subject(source)) for b in (256, batch_size))
    assert other.values == pytest.approx(dict(whole.values), rel=1e-6)
    assert other.curves["bits_per_dim"] == pytest.approx(whole.curves["bits_per_dim"], rel=1e-5)


def test_an_image_keeps_its_noise_in_a_larger_set() -> None:
    few, seed = Pictures.of_noise(2), {"seed": 5}
    alone = NLL(**seed).measure(subject(few)).values["bits_per_dim"]
    both = NLL(**seed).measure(subject(Pictures(few.images.repeat(2, 1, 1, 1)))).values["bits_per_dim"]
    shifted = NLL(seed=7).measure(subject(few)).values["bits_per_dim"]
    assert 2 * both == pytest.approx(alone + shifted)


def test_without_a_learned_variance_it_is_the_samplers() -> None:
    source = Pictures.of_noise(3)
    for variance in ("fixed_small", "fixed_large"):
        stated = NLL(variance).measure(subject(source, learned=False))
        assert NLL().measure(subject(source, learned=False, variance=variance)) == stated


def test_clipping_the_estimate_brings_every_mean_closer_to_the_image() -> None:
    source = Pictures(torch.full((4, 1, 8, 8), 255, dtype=torch.uint8))
    scores = (NLL("fixed_small", clip=clip).measure(subject(source)) for clip in (True, False))
    clipped, free = (score.curves["bits_per_dim"] for score in scores)
    assert all(ours <= theirs for ours, theirs in zip(clipped[1:], free[1:], strict=True))
    assert sum(clipped[1:]) < sum(free[1:])


def test_data_without_levels_and_networks_without_estimates_are_refused() -> None:
    with pytest.raises(DataError, match="256 levels"):
        NLL().measure(subject(Pictures(torch.randn(3, 2))))
    drawing = subject(Pictures.of_noise(3))
    drawing.pipeline.denoiser.respaceable = False
    with pytest.raises(RecipeError, match="draws x_0"):
        NLL().measure(drawing)
