"""Models as surrogates: what they draw, at which size, how often they are called, and the shared chain."""

import pytest
import torch
from surrogate_models import SHORT, UNET, OneImage, make, seeded, tiny, together
from torch.nn import functional

from toolkit import RecipeError, walk

CPU = torch.device("cpu")


@pytest.fixture
def start(tmp_path):
    """Save a pipeline, and start tiny U-Nets from it."""

    def begin(surrogate, t_mid=5, handover="full", **tables):
        surrogate.save_pretrained(tmp_path / "surrogate")
        where = {"surrogate": str(tmp_path / "surrogate"), "t_mid": t_mid, "handover": handover}
        return tiny({"type": "surrogate", **where}, **tables)

    return begin


def test_a_model_is_sampled_by_the_sampler_that_it_was_saved_with(start):
    surrogate = tiny(sampler={"type": "ddim", "num_inference_steps": 4})
    pipeline = start(surrogate, t_mid=0)
    assert torch.allclose(together(pipeline, 3, seed=7), together(surrogate, 3, seed=7), atol=1e-5)
    assert (pipeline.calls, pipeline.start.calls) == (0, 4)


def test_calls_of_a_surrogates_surrogate_count_too(start, tmp_path):
    first = tiny(sampler={"type": "ddim", "num_inference_steps": 4})
    first.save_pretrained(tmp_path / "first")
    second = tiny({"type": "surrogate", "t_mid": 3, "surrogate": str(tmp_path / "first")})
    pipeline = start(second, t_mid=2)
    assert (pipeline.calls, pipeline.start.calls) == (2, 3 + 4)


def test_a_model_with_classes_draws_the_class_of_each_image_by_its_generator(start):
    surrogate = tiny(network={**UNET, "conditional": True}, classes=10)
    images = together(start(surrogate, t_mid=0), 6, seed=3)
    generators = seeded(3, 6)
    label = torch.cat([torch.randint(10, (1,), generator=g) for g in generators])
    assert len(label.unique()) > 2
    assert torch.allclose(images, surrogate.draw(generators, 6, label=label), atol=1e-5)


def test_a_surrogate_is_not_trained_and_draws_in_eval_mode(start):
    pipeline = start(tiny(network={**UNET, "dropout": 0.9}), t_mid=0)
    (surrogate,) = pipeline.start.pipelines().values()
    before = together(pipeline, 1)
    surrogate.denoiser.train()
    assert torch.equal(together(pipeline, 1), before)
    assert not any(p.requires_grad for p in surrogate.denoiser.parameters())


@pytest.mark.parametrize(("handover", "t_mid", "steps", "calls"), [
    ("shared", 5, None, 15), ("shared", 0, None, 20), ("shared", 19, None, 1),
    ("shared", 5, 10, 7),  # 0, 2, ..., 18 are kept: 6, ..., 18 are shared
    ("full", 5, 10, 10),
])  # fmt: skip
def test_a_shared_chain_is_run_above_t_mid_only(start, handover, t_mid, steps, calls):
    surrogate = tiny(sampler={"type": "ancestral", "num_inference_steps": steps})
    pipeline = start(surrogate, t_mid, handover)
    (inner,) = pipeline.start.pipelines().values()
    called = []
    inner.denoiser.register_forward_hook(lambda module, args, out: called.append(int(args[1][0])))
    pipeline.start.draw((2, 1, 8, 8), seeded(0, 2), -1, CPU)
    assert len(called) == pipeline.start.calls == calls
    if handover == "shared":
        assert called[0] == inner.times[0] and called[-1] >= t_mid


@pytest.mark.parametrize("sampler", [
    {"type": "ancestral", "variance": "fixed_large"},
    {"type": "ddim", "eta": 0.5},
])  # fmt: skip
def test_a_shared_chain_hands_over_its_estimate_at_the_last_step(start, sampler):
    """A sampler on a chain that ends there returns just this estimate."""
    surrogate = tiny(sampler=sampler)
    pipeline = start(surrogate, t_mid=5, handover="shared")
    ends = surrogate.schedule.respace(range(5, 20))
    kind = type(surrogate.sampler)
    options = {name: value for name, value in sampler.items() if name != "type"}
    generators = seeded(0, 2)
    noise = surrogate.start.draw((2, 1, 8, 8), generators, 19, CPU)
    with torch.inference_mode():
        expected = walk(
            kind(ends, **options),
            surrogate.denoiser,
            ends,
            noise,
            ends.grid(None, None),
            generators=generators,
        )
    drawn = together(pipeline.without_refining(), 2)
    assert torch.allclose(drawn, expected.clamp(-1, 1), atol=1e-5)
    assert not torch.allclose(drawn, together(surrogate, 2), atol=0.05)  # the whole chain goes on


def test_only_chains_of_one_length_can_be_shared(start):
    surrogate = tiny(schedule={**SHORT, "num_train_timesteps": 10})
    with pytest.raises(RecipeError, match=r"needs a surrogate with a chain of T = 20 too"):
        start(surrogate, handover="shared")


def test_a_surrogate_without_a_step_above_t_mid_has_nothing_to_share(start):
    with pytest.raises(RecipeError, match=r"the surrogate has no step at or above 20"):
        start(tiny(), t_mid=20, handover="shared")


@pytest.mark.parametrize("side", [4, 16, 24])
def test_images_of_another_size_are_resized_bilinearly(side):
    table = {"type": "surrogate", "t_mid": 0, "data": {"type": "one_image", "size": side}}
    (drawn,) = make(table).draw(seeded(0, 1), 1)
    image = OneImage(size=side).image
    if side == 4:  # every pixel from the up to four that are next to it
        expected = functional.interpolate(image[None], (8, 8), mode="bilinear")[0]
    else:  # a triangle over what a pixel covers, twice as wide as the pixel
        scale = side // 8
        centres, pixels = (torch.arange(8) + 0.5) * scale, torch.arange(side) + 0.5
        weights = (1 - (pixels - centres[:, None]).abs() / scale).clamp(min=0)
        weights = weights / weights.sum(1, keepdim=True)
        expected = weights @ image @ weights.T
    assert torch.allclose(drawn, expected, atol=1e-5)


def test_other_numbers_of_channels_are_refused():
    table = {"type": "surrogate", "t_mid": 0, "data": {"type": "one_image", "channels": 3}}
    with pytest.raises(RecipeError, match=r"\[start\] its images have channels: 3, .* model: 1$"):
        make(table)


def test_points_are_no_images():
    table = {"type": "surrogate", "t_mid": 0, "data": {"type": "one_image"}}
    with pytest.raises(RecipeError, match=r"its samples have shape \(1, 8, 8\), those of .* \(2,\)"):
        make(table, (2,), network={"type": "ddpm_mlp"})


def test_points_start_from_points():
    table = {"type": "surrogate", "t_mid": 0, "data": {"type": "gaussians25"}}
    points = together(make(table, (2,), network={"type": "ddpm_mlp"}), 50)
    assert (points - points.round()).abs().max() < 0.3  # within 6 standard deviations of their modes
    assert points.abs().max() > 1.5


def test_another_start_can_be_chosen_for_a_loaded_pipeline(start):
    pipeline = start(tiny(), t_mid=5)
    further = pipeline.with_start(t_mid=8)
    assert (further.calls, further.denoiser) == (8, pipeline.denoiser)
    assert further.saved.tables["start"]["t_mid"] == 8
    noise = pipeline.with_start("noise")
    assert torch.equal(together(noise, 2), together(tiny(), 2))
    with pytest.raises(RecipeError, match=r"^\[start.t_mit\] .* Did you mean 't_mid'\?$"):
        pipeline.with_start(t_mit=8)


def test_what_is_no_folder_is_named_with_its_table_and_key(tmp_path):
    with pytest.raises(RecipeError, match=rf"here: \[start\] surrogate: {tmp_path}/no: no such folder"):
        tiny({"type": "surrogate", "t_mid": 5, "surrogate": str(tmp_path / "no")})
