"""Where the chain starts: the noise level, the calls that are left, and what each image depends on."""

import json
from pathlib import Path

import pytest
import torch
from surrogate_models import OneImage, from_image, make, seeded, tiny, together

from toolkit import RecipeError, randn

CASES = json.loads((Path(__file__).parent / "surrogate_vectors.json").read_text())["surrogate"]["cases"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"t_mid={case['t_mid']}")
def test_the_start_is_the_published_mixture_of_image_and_noise(case):
    start = make(from_image(case["t_mid"])).start
    x_t = start.draw((2, 1, 8, 8), seeded(0, 2), case["start_index"], CPU)
    generators = seeded(0, 2)
    x0 = start.draw((2, 1, 8, 8), generators, -1, CPU)
    noise = randn((2, 1, 8, 8), generators, CPU)  # the same generators go on
    expected = case["sqrt_abar"] * x0 + case["sqrt_one_minus_abar"] * noise
    assert torch.allclose(x_t, expected, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"t_mid={case['t_mid']}")
def test_as_many_steps_of_the_original_chain_are_refined_as_t_mid_says(case):
    pipeline = make(from_image(case["t_mid"]))
    together(pipeline, 1)
    assert pipeline.denoiser.asked == list(range(case["start_index"], -1, -1))
    assert pipeline.calls == case["nfe"]


@pytest.mark.parametrize(("sampler", "calls"), [
    ({"type": "ancestral"}, (1, 250, 1000)),
    ({"type": "ddim"}, (1, 250, 1000)),
    ({"type": "ancestral", "num_inference_steps": 50}, (1, 13, 50)),  # 0, 20, ..., 980 are kept
    ({"type": "ddim", "num_inference_steps": 50}, (1, 13, 50)),
    ({"type": "diffusers", "scheduler": "DDIMScheduler", "num_inference_steps": 50}, (1, 13, 50)),
])  # fmt: skip
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_exact_denoiser_makes_its_image_of_any_start(sampler, calls, which):
    pipeline = make(from_image((1, 250, 1000)[which], seed=1), sampler=sampler)
    images = together(pipeline, 2)
    assert len(pipeline.denoiser.asked) == pipeline.calls == calls[which]
    assert not torch.allclose(together(pipeline.without_refining(), 1)[0], OneImage().image, atol=0.5)
    # diffusers' tables are float32, and at t = 0 the noise that explains another image is up to 200.
    atol = 2e-4 if "scheduler" in sampler else 2e-6
    assert torch.allclose(images, OneImage().image.expand(2, -1, -1, -1), atol=atol)


def test_t_mid_0_hands_back_the_surrogates_images_and_calls_no_network():
    pipeline = make(from_image(0, seed=1))
    assert torch.equal(together(pipeline, 2), OneImage(seed=1).image.expand(2, -1, -1, -1))
    assert pipeline.denoiser.asked == [] and pipeline.calls == 0


@pytest.mark.parametrize(("steps", "timestep"), [(None, 249), (50, 240), (7, 142)])
def test_the_noise_is_that_of_the_largest_kept_timestep_below_t_mid(steps, timestep):
    """Mean and variance over 40,000 pixels of each value, 5 standard errors wide."""
    pipeline = make(from_image(250), sampler={"type": "ancestral", "num_inference_steps": steps})
    assert pipeline.times[0] == timestep
    torch.manual_seed(0)
    n = 40_000
    x = pipeline.start.draw((n, 1, 8, 8), None, timestep, CPU)
    abar = float(pipeline.schedule.alphas_cumprod[timestep])
    error = x.mean(0) - abar**0.5 * OneImage().image
    assert error.abs().max() < 5 * ((1 - abar) / n) ** 0.5
    assert (x.var(0) / (1 - abar) - 1).abs().max() < 5 * (2 / n) ** 0.5


def test_a_start_at_t_is_noise_and_what_the_chain_leaves_of_the_image():
    x, other = (
        make(from_image(1000, seed=seed)).start.draw((1, 1, 8, 8), seeded(0, 1), 999, CPU) for seed in (0, 1)
    )
    assert torch.allclose(x - other, 0.0063528 * (OneImage().image - OneImage(seed=1).image), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_start_has_the_same_bits_in_every_batch(batch_size):
    pipeline = make({"type": "surrogate", "t_mid": 250, "data": {"type": "digits"}})
    whole = pipeline.start.draw((5, 1, 8, 8), seeded(3, 5), 249, CPU)
    parts = [
        pipeline.start.draw((len(some), 1, 8, 8), some, 249, CPU)
        for some in (seeded(3, 5)[i : i + batch_size] for i in range(0, 5, batch_size))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_an_image_refined_from_a_models_sample_is_the_same_in_every_batch_up_to_rounding(tmp_path):
    tiny().save_pretrained(tmp_path / "surrogate")
    pipeline = tiny({"type": "surrogate", "t_mid": 5, "surrogate": str(tmp_path / "surrogate")})
    whole = together(pipeline, 5, seed=3)
    assert torch.allclose(whole, together(pipeline, 5, seed=3, batch_size=2), atol=1e-4)
    assert torch.allclose(whole[2:], together(pipeline, 3, seed=5), atol=1e-4)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_examples_are_drawn_from_the_whole_set():
    pipeline = make({"type": "surrogate", "t_mid": 0, "data": {"type": "digits", "split": "test"}})
    drawn = together(pipeline, 200)
    digits = (together(pipeline, 200, seed=200) + 1) * 127.5
    assert len({tuple(image.flatten().tolist()) for image in drawn}) > 140  # of 360: 154 expected
    assert torch.allclose(digits, digits.round(), atol=1e-3) and digits.max() == 255


def test_a_larger_t_mid_than_the_chain_is_refused_with_its_length():
    with pytest.raises(RecipeError, match=r"here: \[start\] t_mid must be from 0 to 1000, .* not 1001"):
        make(from_image(1001))


@pytest.mark.parametrize("more", [{}, {"surrogate": "folder", "data": {"type": "digits"}}])
def test_neither_surrogate_nor_data_and_both_are_refused(more):
    with pytest.raises(RecipeError, match=r"\[start\] needs one of surrogate, a folder, and data"):
        make({"type": "surrogate", "t_mid": 250, **more})


def test_data_has_no_chain_to_share():
    with pytest.raises(RecipeError, match=r'handover = "shared" needs a surrogate with a chain of T = 1000'):
        make({**from_image(250), "handover": "shared"})
