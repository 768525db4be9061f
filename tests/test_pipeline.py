"""Pipelines as Python code uses them: shapes, ranges, and what an image depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import toolkit
from toolkit import Denoiser, NoiseSchedule, Pipeline, Prediction, RecipeError, Registry
from toolkit.pipeline.folder import Saved
from toolkit.pipeline.images import save_samples
from toolkit.registry import load as plugins

UNET = {
    "type": "unet", "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "add_attention": False,
}  # fmt: skip
LIGHT = {key: value for key, value in UNET.items() if key != "add_attention"} | {
    "type": "ddgan_light_generator", "latent_width": 4, "mapping_width": 8, "mapping_layers": 1,
}  # fmt: skip
CHAIN = {"type": "linear", "num_train_timesteps": 20, "beta_start": 1e-3, "beta_end": 0.3}
ANCESTRAL = {"type": "ancestral", "clip": True}


class Points(Denoiser):
    """Works row by row, so that its results have the same bits in every batch."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        return Prediction(self.schedule, x_t, t, x0=self.scale * x_t)


def registry() -> Registry:
    found = plugins.load().registry.copy()
    found.add(Denoiser, "points", Points)
    return found


def make(shape: tuple[int, ...] = (1, 8, 8), classes: int | None = None, **tables: Any) -> Pipeline:
    """A pipeline with weights as they were initialised."""
    stated = {
        "schedule": CHAIN,
        "network": UNET,
        "sampler": ANCESTRAL,
        "start": {"type": "noise"},
        **tables,
    }
    torch.manual_seed(0)
    return Pipeline.from_saved(Saved(sample_shape=shape, num_classes=classes, **stated), registry(), "here")


def make_ddgan() -> Pipeline:
    return make(
        network=LIGHT, schedule={"type": "vp_sde", "num_train_timesteps": 4}, sampler={"type": "ancestral"}
    )


def make_conditional() -> Pipeline:
    return make(classes=10, network={**UNET, "conditional": True})


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def together(pipeline: Pipeline, num: int, **options: Any) -> Tensor:
    return torch.cat(list(pipeline.sample(num, **options)))


@pytest.mark.parametrize(("shape", "mode"), [
    ((1, 8, 8), "L"), ((2, 8, 16), "LA"), ((3, 8, 16), "RGB"), ((4, 8, 8), "RGBA"),
])  # fmt: skip
def test_pil_images_have_the_size_and_the_channels_of_the_data(shape: tuple[int, ...], mode: str) -> None:
    images = make(shape)(batch_size=2).images
    assert [(image.mode, image.size) for image in images] == [(mode, (shape[2], shape[1]))] * 2


def test_one_label_is_that_of_all_images() -> None:
    pipeline = make_conditional()
    one, several = (pipeline(2, seeded(0, 1), 2, "pt", labels=labels).images for labels in (3, [3, 3]))
    assert torch.equal(one, several)


@pytest.mark.parametrize("label", [[10, 0], [-1, 0], [0]])
def test_a_tensor_of_labels_is_checked_before_a_network_is_called(label: list[int]) -> None:
    with pytest.raises(ValueError, match=r"label must be \(2,\) of the classes 0\.\.9, not \["):
        make_conditional().draw(seeded(0, 1), 2, label=torch.tensor(label))


def test_more_channels_than_a_picture_has_are_all_kept_as_an_array() -> None:
    pipeline = make((5, 8, 8))
    array = pipeline(2, seeded(0, 1)).images
    assert array.shape == (2, 8, 8, 5) and array.min() >= 0 and array.max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_numbers_that_are_no_pictures_are_neither_clamped_nor_scaled(channels: int) -> None:
    pictures = make((channels, 8, 8), sampler={"type": "ancestral"})
    saved = pictures.saved.model_copy(update={"pictures": False})
    numbers = Pipeline.from_saved(saved, registry(), "here")
    numbers.denoiser.load_state_dict(pictures.denoiser.state_dict())
    numbers.save_pretrained("numbers")
    numbers = toolkit.load("numbers")
    drawn = numbers.draw(seeded(0, 1), 2)
    assert drawn.abs().max() > 1
    assert torch.equal(drawn.clamp(-1, 1), pictures.draw(seeded(0, 1), 2))
    for kind in ("pil", "np", "pt"):
        assert np.array_equal(numbers(2, seeded(0, 1), output_type=kind).images, drawn.numpy())
    assert save_samples(drawn, Path("grid.png"), numbers.pictures) == Path("grid.npy")
    assert np.array_equal(np.load("grid.npy"), drawn.numpy())


def test_arrays_have_channels_last_and_tensors_channels_first_both_from_0_to_1() -> None:
    pipeline = make((3, 8, 16))
    array = pipeline(2, seeded(0, 1), output_type="np").images
    tensor = pipeline(2, seeded(0, 1), output_type="pt").images
    assert array.shape == (2, 8, 16, 3) and tensor.shape == (2, 3, 8, 16)
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert tensor.min() >= 0 and tensor.max() <= 1 and tensor.std() > 0.1


def test_pil_images_are_the_same_samples_rounded() -> None:
    pipeline = make()
    image = np.asarray(pipeline(1, seeded(0)).images[0])
    array = pipeline(1, seeded(0), output_type="np").images[0, :, :, 0]
    assert np.abs(image / 255 - array).max() <= 0.5001 / 255


def test_an_unknown_output_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'pil', 'np', 'pt'"):
        make()(output_type="numpy")  # type: ignore[arg-type]


def test_one_generator_for_each_image_draws_what_a_seed_draws() -> None:
    pipeline = make()
    images = pipeline(3, seeded(5, 6, 7), output_type="pt").images
    assert torch.equal(images, (together(pipeline, 3, seed=5) + 1) / 2)


def test_one_generator_for_all_repeats_and_moves_on() -> None:
    pipeline, (one, other) = make(), seeded(0, 0)
    first, second = (pipeline(2, one, output_type="pt").images for _ in range(2))
    assert torch.equal(first, pipeline(2, other, output_type="pt").images)
    assert not torch.equal(first, second)


def test_without_a_generator_torchs_own_seed_counts() -> None:
    pipeline, images = make(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(pipeline(2, output_type="pt").images)
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_too_few_generators_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows need as many generators, got 2"):
        make()(3, seeded(0, 1))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_what_is_drawn_for_an_image_has_the_same_bits_in_every_batch(batch_size: int) -> None:
    pipeline = make((2,), network={"type": "points"})
    assert torch.equal(together(pipeline, 7, seed=3), together(pipeline, 7, seed=3, batch_size=batch_size))


@pytest.mark.parametrize("made", [make, make_ddgan, make_conditional])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_image_is_the_same_in_every_batch_up_to_rounding(
    made: Callable[[], Pipeline], batch_size: int
) -> None:
    """Convolutions round differently by batch size: 2e-5 apart on trained networks, measured."""
    pipeline = made()
    whole = together(pipeline, 7, seed=3)
    assert torch.allclose(whole, together(pipeline, 7, seed=3, batch_size=batch_size), atol=1e-4)
    assert (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.parametrize("made", [make, make_ddgan, make_conditional])
def test_the_seed_of_an_image_is_its_number_more(made: Callable[[], Pipeline]) -> None:
    pipeline = made()
    late = together(pipeline, 4, seed=3, first=4)
    assert torch.equal(late, together(pipeline, 8, seed=3, batch_size=4)[4:])
    if pipeline.num_classes is None:
        assert torch.equal(late, together(pipeline, 4, seed=7))


@pytest.mark.slow
def test_a_compiled_pipeline_draws_the_same_and_compiles_for_one_batch_size() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def conditional() -> Pipeline:
        torch.manual_seed(0)
        return make(classes=3, network={**UNET, "conditional": True})

    usual, compiled = conditional(), conditional().compile(backend=backend)
    next(compiled.sample(2, batch_size=2))
    known = len(graphs)
    assert known
    for labels in (None, [2, 0, 1, 1, 2]):
        both = [torch.cat([*one.sample(5, batch_size=2, labels=labels)]) for one in (usual, compiled)]
        assert torch.allclose(*both, atol=1e-5)
    assert len(graphs) == known


def test_given_noise_replaces_the_drawn_start() -> None:
    pipeline = make().with_sampler("ddim")
    noise = torch.randn(2, 1, 8, 8)
    one, other = (
        pipeline(2, seeded(*seeds), noise=noise, output_type="pt").images for seeds in ((0, 1), (8, 9))
    )
    assert torch.equal(one, other)


def test_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must be \(1, 1, 8, 8\)"):
        make()(noise=torch.randn(2, 1, 8, 8))


def test_given_noise_and_latents_leave_only_the_steps_to_the_generators() -> None:
    pipeline = make_ddgan()
    noise, latents = torch.randn(2, 1, 8, 8), list(torch.randn(4, 2, 4))
    again = [
        pipeline(2, seeded(0, 1), noise=noise, latents=latents, output_type="pt").images for _ in range(2)
    ]
    other = pipeline(2, seeded(0, 1), noise=noise, latents=[-z for z in latents], output_type="pt").images
    assert torch.equal(*again) and not torch.equal(again[0], other)


def test_labels_choose_the_class_and_take_turns_unless_given() -> None:
    pipeline = make_conditional()
    turns, same, ones = (
        pipeline(3, seeded(0, 1, 2), labels=labels, output_type="pt").images
        for labels in (None, [0, 1, 2], [1] * 3)
    )
    assert torch.equal(turns, same)
    assert not torch.equal(same[0], ones[0]) and torch.equal(same[1], ones[1])


def test_labels_for_a_model_that_is_not_conditional_are_refused() -> None:
    pipeline = make(classes=10)  # trained on labelled data all the same
    assert pipeline.num_classes is None
    with pytest.raises(ValueError, match="conditional"):
        pipeline(2, labels=[3, 3])


@pytest.mark.parametrize(("labels", "message"), [
    ([3], "labels must be one for each of 2 images, got 1"),
    ([3, 10], "there is no class 10: labels must be of the classes 0..9"),
    ([-1, 3], "there is no class -1: labels must be of the classes 0..9"),
    ([3, 1.5], "there is no class 1.5"),
    ([3, True], "there is no class True"),
    (10, "there is no class 10"),
    ("cat", "there is no class 'cat'"),
])  # fmt: skip
def test_labels_that_are_too_few_or_no_classes_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_conditional()(2, labels=labels)


def test_fewer_inference_steps_are_fewer_network_calls() -> None:
    pipeline, done = make(), []
    assert (pipeline.calls, pipeline.with_sampler(num_inference_steps=5).calls) == (20, 5)
    pipeline.with_sampler(num_inference_steps=5).draw(None, 2, progress=done.append)
    assert done == [1, 2, 3, 4, 5]
    five = pipeline.with_sampler(num_inference_steps=5)(2, seeded(0, 1), output_type="pt").images
    assert torch.equal(five, pipeline(2, seeded(0, 1), num_inference_steps=5, output_type="pt").images)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_calls_counts_those_of_schedulers_that_take_several_a_step(scheduler: str) -> None:
    pipeline, done = make().with_sampler("diffusers", scheduler=scheduler, num_inference_steps=5), []
    pipeline.draw(None, 2, progress=done.append)
    assert pipeline.calls == len(done)


def test_another_sampler_has_the_same_weights_and_keeps_the_options_that_both_have() -> None:
    pipeline = make()
    other = pipeline.with_sampler("ddim", num_inference_steps=5)
    assert other.denoiser is pipeline.denoiser
    table = other.saved.tables["sampler"]
    assert table["clip"] is True and "variance" not in table  # that is ancestral's alone
    assert pipeline.with_sampler("ddim", clip=False).saved.tables["sampler"]["clip"] is False
    assert pipeline.with_sampler(num_inference_steps=5).saved.tables["sampler"]["clip"] is True


def test_an_unknown_sampler_or_option_is_named_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"^\[sampler.type\] .*'ddmi'.* mean 'ddim'\?$"):
        make().with_sampler("ddmi")
    with pytest.raises(RecipeError, match=r"^\[sampler.num_steps\] .* mean 'num_inference_steps'\?$"):
        make().with_sampler("ddim", num_steps=4)


def test_points_flow_through_and_are_not_clamped() -> None:
    pipeline = make((2,), network={"type": "points"}, sampler={"type": "ancestral"})
    with torch.no_grad():
        pipeline.denoiser.scale.fill_(3.0)  # type: ignore[union-attr, operator]
    points = pipeline(50, output_type="pt").images
    assert points.shape == (50, 2) and points.abs().max() > 1
    assert pipeline(5).images.shape == (5, 2)


def test_a_network_can_be_trained_on_samples() -> None:
    (samples,) = make().sample(2)
    nn.Conv2d(1, 1, 1)(samples).sum().backward()


def test_a_pipeline_says_what_it_is() -> None:
    assert repr(make()).startswith("Pipeline(unet of 1x8x8, ancestral sampler, 20 network calls")
