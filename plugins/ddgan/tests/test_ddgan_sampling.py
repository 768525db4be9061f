import pytest
import torch

from toolkit import Pipeline, RecipeError
from toolkit.pipeline.folder import Saved
from toolkit.randomness import generators_for
from toolkit.registry import load as plugins


@pytest.fixture
def pipeline():
    tables = {
        "schedule": {"type": "vp_sde", "num_train_timesteps": 4},
        "network": {"type": "ddgan_mlp_generator", "width": 8},
        "sampler": {"type": "ancestral"}, "start": {"type": "noise"},
    }  # fmt: skip
    torch.manual_seed(0)
    return Pipeline.from_saved(
        Saved(sample_shape=(2,), num_classes=None, **tables), plugins.load().registry, "here"
    )


@torch.no_grad()
def test_given_noise_and_latents_sampling_is_the_published_loop(pipeline):
    noise, latents = torch.randn(3, 2), list(torch.randn(4, 3, 4))
    drawn = pipeline.draw(generators_for(0, 0, 3, torch.device("cpu")), 3, noise=noise, latents=latents)
    generators, x = generators_for(0, 0, 3, torch.device("cpu")), noise
    for t, z in zip((3, 2, 1, 0), latents, strict=True):
        rows = torch.full((3,), t)
        x0 = pipeline.denoiser(x, rows, latent=z).x0
        fresh = torch.stack([torch.randn(2, generator=g) for g in generators])
        mean, std = pipeline.schedule.posterior(x0, x, rows - 1, rows)
        x = mean + std * fresh
    assert torch.allclose(drawn, x, atol=1e-6)


def test_each_network_call_draws_a_latent_of_its_own(pipeline):
    seen = []
    latent = pipeline.denoiser.latent
    pipeline.denoiser.latent = lambda n, generators: seen.append(latent(n, generators)) or seen[-1]
    pipeline.draw(generators_for(0, 0, 2, torch.device("cpu")), 2)
    assert len(seen) == 4 and not any(torch.equal(seen[0], later) for later in seen[1:])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_fewer_steps_than_it_was_trained_for_are_refused(pipeline, steps):
    with pytest.raises(RecipeError, match=f"takes {steps} steps, but .* trained for the 4 steps"):
        pipeline(1, num_inference_steps=steps)


def test_more_steps_than_the_chain_has_are_refused(pipeline):
    with pytest.raises(RecipeError, match="must be from 1 to 4, the length of the chain, not 50"):
        pipeline(1, num_inference_steps=50)
