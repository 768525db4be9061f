"""Pipelines that diffusers opens, and pipelines of diffusers that we open: both sample the same images."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from test_pipeline import UNET, make, seeded
from torch import Tensor

import toolkit
from toolkit.errors import CheckpointError

# The schedulers compute their coefficients in float32, ours in float64: 2.5e-6 apart, measured.
TOLERANCE = 1e-5


def theirs(pipeline: Any, steps: int) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(3, generator=seeded(1, 2, 3), num_inference_steps=steps, output_type="np").images
    return torch.as_tensor(images).permute(0, 3, 1, 2)


def ours(pipeline: toolkit.Pipeline, steps: int | None = None) -> Tensor:
    images: Tensor = pipeline(3, seeded(1, 2, 3), num_inference_steps=steps, output_type="pt").images
    return images


def inside(images: Tensor) -> float:
    """The share of pixels that are not clipped, where a difference would show."""
    return float(((images > 0) & (images < 1)).float().mean())


def foreign(
    folder: str,
    pipeline: str = "DDPMPipeline",
    *,
    kind: str | None = None,
    classes: int | None = None,
    saving: dict[str, Any] | None = None,
    **scheduler: Any,
) -> Path:
    """A pipeline folder as diffusers writes it, with a scheduler of that kind."""
    torch.manual_seed(0)
    kind = kind or pipeline.replace("Pipeline", "Scheduler")
    options = {"num_train_timesteps": 20, "beta_start": 1e-3, "beta_end": 0.3, **scheduler}
    unet = {key: value for key, value in UNET.items() if key not in ("type", "add_attention")}
    unet |= {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "attention_head_dim": None}
    model = diffusers.UNet2DModel(8, 3, 3, num_class_embeds=classes, **unet)
    parts = model, getattr(diffusers, kind)(**options)
    getattr(diffusers, pipeline)(*parts).save_pretrained(folder, **(saving or {}))
    return Path(folder)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flatten(folder: Path) -> None:
    """The layout of 2022: all parts at the top, and attention's weights by their old names."""
    from safetensors.torch import load_file, save_file

    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    for new, name in old.items():
        state = {key.replace(new, name): tensor for key, tensor in state.items()}
    assert any(".proj_attn." in key for key in state)
    save_file(state, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


def test_a_run_opens_in_diffusers_unchanged_and_samples_the_same_images(runs: Path) -> None:
    images = ours(toolkit.load(runs / "ddpm"))
    there = diffusers.DDPMPipeline.from_pretrained(runs / "ddpm" / "pipeline")
    assert torch.allclose(images, theirs(there, 20), atol=TOLERANCE)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize(
    ("steps", "spacing"), [(20, "leading"), (5, "leading"), (5, "trailing"), (7, "linspace")]
)
def test_diffusers_samples_a_saved_pipeline_as_we_do(
    prediction: str, variance: str, steps: int, spacing: str
) -> None:
    variance = "fixed_small" if spacing == "trailing" else variance
    pipeline = make(
        network={**UNET, "prediction": prediction},
        sampler={"type": "ancestral", "clip": True, "variance": variance, "spacing": spacing},
    )
    pipeline.save_pretrained("saved")
    images = ours(pipeline, steps)
    assert torch.allclose(
        images, theirs(diffusers.DDPMPipeline.from_pretrained("saved"), steps), atol=TOLERANCE
    )
    assert inside(images) > 0.3


@pytest.mark.parametrize(("classes", "network", "sampler"), [
    (None, {}, {"type": "ddim"}),
    (None, {}, {"type": "diffusers", "scheduler": "UniPCMultistepScheduler", "num_inference_steps": 5}),
    (None, {}, {"type": "ancestral", "spacing": "trailing", "variance": "fixed_large"}),
    (None, {}, {"type": "ancestral", "spacing": "strided"}),
    (None, {}, {"type": "ancestral", "spacing": "ddim"}),
    (None, {}, {"type": "ancestral", "num_inference_steps": [3, 4]}),
    (None, {"learned_variance": True}, {"type": "ancestral"}),
    (10, {"conditional": True}, {"type": "ancestral"}),
], ids=[
    "ddim", "solver", "noise at the end", "strided", "whole stride", "sections", "learned variance",
    "conditional",
])  # fmt: skip
def test_what_diffusers_would_sample_otherwise_does_not_look_like_its_own(
    classes: int | None, network: dict[str, Any], sampler: dict[str, Any]
) -> None:
    pipeline = make(classes=classes, network={**UNET, **network}, sampler=sampler)
    pipeline.save_pretrained("saved")
    assert not Path("saved/model_index.json").exists()
    assert torch.equal(ours(toolkit.load("saved")), ours(pipeline))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_clipping_and_variance_are_stated_for_diffusers_as_they_are_for_us(clip: bool, variance: str) -> None:
    make(sampler={"type": "ancestral", "clip": clip, "variance": variance}).save_pretrained("saved")
    theirs = json.loads(Path("saved/scheduler/scheduler_config.json").read_text())
    ours = json.loads(Path("saved/pipeline.json").read_text())["sampler"]
    assert (theirs["clip_sample"], theirs["variance_type"]) == (ours["clip"], ours["variance"])
    assert (ours["clip"], ours["variance"], theirs["clip_sample_range"]) == (clip, variance, 1.0)


def test_a_ddgan_run_does_not_look_like_a_pipeline_of_diffusers(runs: Path) -> None:
    assert not (runs / "ddgan" / "pipeline" / "model_index.json").exists()


@pytest.mark.parametrize("scheduler", [
    {}, {"variance_type": "fixed_large"}, {"prediction_type": "v_prediction"}, {"prediction_type": "sample"},
    {"beta_schedule": "squaredcos_cap_v2"}, {"timestep_spacing": "trailing"},
])  # fmt: skip
@pytest.mark.parametrize("steps", [20, 5])
def test_a_foreign_pipeline_samples_what_diffusers_samples(scheduler: dict[str, Any], steps: int) -> None:
    folder = foreign("foreign", **scheduler)
    images = ours(toolkit.load(folder), steps)
    assert torch.allclose(
        images, theirs(diffusers.DDPMPipeline.from_pretrained(folder), steps), atol=TOLERANCE
    )
    assert inside(images) > 0.3


def test_a_foreign_pipeline_in_the_old_layout_samples_what_diffusers_samples() -> None:
    folder = foreign("foreign")
    flatten(folder)
    there = diffusers.DDPMPipeline.from_pretrained(folder)
    assert torch.allclose(ours(toolkit.load(folder)), theirs(there, 20), atol=TOLERANCE)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@pytest.mark.parametrize("scheduler", [
    {}, {"clip_sample": False}, {"set_alpha_to_one": False, "steps_offset": 1},
    {"prediction_type": "v_prediction"}, {"prediction_type": "v_prediction", **ZERO_SNR},
    {"prediction_type": "sample", **ZERO_SNR, "clip_sample": False},
])  # fmt: skip
def test_a_foreign_ddim_pipeline_samples_what_diffusers_samples(scheduler: dict[str, Any]) -> None:
    folder = foreign("foreign", "DDIMPipeline", **scheduler)
    images = ours(toolkit.load(folder), 10)
    assert torch.allclose(images, theirs(diffusers.DDIMPipeline.from_pretrained(folder), 10), atol=TOLERANCE)


SOLVERS = [
    ("DDPMPipeline", "DPMSolverMultistepScheduler", {}),
    ("DDPMPipeline", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DDPMPipeline", "DPMSolverMultistepScheduler", {"prediction_type": "v_prediction", "solver_order": 3}),
    ("DDPMPipeline", "DPMSolverMultistepScheduler", {"prediction_type": "v_prediction", **ZERO_SNR}),
    ("DDPMPipeline", "DDIMScheduler", {"timestep_spacing": "trailing"}),
    ("PNDMPipeline", "PNDMScheduler", {}),
    ("PNDMPipeline", "PNDMScheduler", {"skip_prk_steps": True, "prediction_type": "v_prediction"}),
]  # fmt: skip


@pytest.mark.parametrize(("pipeline", "kind", "scheduler"), SOLVERS)
def test_pipelines_with_solvers_are_read_and_written_as_diffusers_samples_them(
    pipeline: str, kind: str, scheduler: dict[str, Any]
) -> None:
    folder = foreign("foreign", pipeline, kind=kind, **scheduler)
    read = toolkit.load(folder)
    read.save_pretrained("saved")
    shown = theirs(getattr(diffusers, pipeline).from_pretrained(folder), 8)
    again = getattr(diffusers, json.loads(Path("saved/model_index.json").read_text())["_class_name"])
    assert torch.allclose(ours(read, 8), shown, atol=TOLERANCE)
    assert torch.allclose(ours(toolkit.load("saved"), 8), shown, atol=TOLERANCE)
    assert torch.allclose(theirs(again.from_pretrained("saved"), 8), shown, atol=TOLERANCE)
    assert inside(shown) > 0.1


def test_a_class_conditional_unet_is_read_and_written_and_samples_its_classes() -> None:
    """diffusers has no pipeline for it: a loop over its scheduler is what people write."""
    folder = foreign("foreign", classes=10)
    read = toolkit.load(folder)
    assert read.num_classes == 10
    read.save_pretrained("saved")
    assert not Path("saved/model_index.json").exists()
    for place in (folder, Path("saved")):
        unet = diffusers.UNet2DModel.from_pretrained(place / "unet")
        scheduler = diffusers.DDPMScheduler.from_pretrained(place / "scheduler")
        scheduler.set_timesteps(5)
        drawing = seeded(1, 2)
        x = torch.cat([torch.randn(1, 3, 8, 8, generator=g) for g in drawing])
        for t in scheduler.timesteps:
            with torch.no_grad():
                noise = unet(x, t, class_labels=torch.tensor([3, 7])).sample
            x = scheduler.step(noise, t, x, generator=drawing).prev_sample
        images = toolkit.load(place)(2, seeded(1, 2), 5, "pt", labels=[3, 7]).images
        assert torch.allclose(images, (x.clamp(-1, 1) + 1) / 2, atol=TOLERANCE)
    with pytest.raises(ValueError, match="there is no class 10"):
        read(1, labels=10)


@pytest.mark.parametrize("saving", [
    {"variant": "fp16"}, {"max_shard_size": "20KB"}, {"max_shard_size": "20KB", "variant": "fp16"},
])  # fmt: skip
def test_weights_in_shards_and_variants_are_read(saving: dict[str, Any]) -> None:
    whole = ours(toolkit.load(foreign("whole")), 5)
    folder = foreign("foreign", saving=saving)
    assert not (folder / "unet/diffusion_pytorch_model.safetensors").exists()
    pipeline = toolkit.load(folder)
    assert torch.equal(ours(pipeline, 5), whole)
    pipeline.save_pretrained("saved")
    assert torch.equal(ours(toolkit.load("saved"), 5), whole)
    for index in (folder / "unet").glob("*.index*.json"):
        content = json.loads(index.read_text())
        for map_ in ({"a": "../../whole/unet/diffusion_pytorch_model.safetensors"}, {}, [], {"a": 1}):
            index.write_text(json.dumps({**content, "weight_map": map_}))
            assert "weight_map must map weights to the names of files beside it" in refusal(folder)


def test_weights_in_half_precision_are_read_as_they_are() -> None:
    folder = foreign("foreign")
    half = diffusers.DDPMPipeline.from_pretrained(folder, torch_dtype=torch.float16)
    half.save_pretrained("half")
    back = diffusers.DDPMPipeline.from_pretrained("half", torch_dtype=torch.float32)
    assert torch.allclose(ours(toolkit.load("half"), 5), theirs(back, 5), atol=TOLERANCE)


def test_a_foreign_pipeline_that_we_save_still_opens_in_diffusers() -> None:
    folder = foreign("foreign")
    toolkit.load(folder).save_pretrained("saved")
    there = [theirs(diffusers.DDPMPipeline.from_pretrained(path), 20) for path in (folder, "saved")]
    assert torch.allclose(*there, atol=TOLERANCE)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        toolkit.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pickled_weights_are_not_opened() -> None:
    folder = foreign("foreign", saving={"safe_serialization": False})
    assert [path.suffix for path in (folder / "unet").iterdir() if "model" in path.name] == [".bin"]
    assert "pickled weights (.bin) are not opened" in refusal(folder)


@pytest.mark.parametrize(("file", "values", "named"), [
    ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "is a StableDiffusionPipeline"),
    ("model_index.json", {"unet": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel"),
    ("model_index.json", {"unet": ["my_pipeline", "MyUNet"]}, "MyUNet"),
    ("model_index.json", {"scheduler": ["diffusers", "PNDMSchedular"]}, "Did you mean 'PNDMScheduler'"),
    ("model_index.json", {"scheduler": ["diffusers", "KarrasVeScheduler"]}, "KarrasVeScheduler"),
    ("model_index.json", {"scheduler": ["mine", "PNDMScheduler"]}, "'mine'"),
    ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "'learned_range'"),
    ("scheduler/scheduler_config.json", {"thresholding": True}, "thresholding = True"),
    ("unet/config.json", {"center_input_sample": True}, "center_input_sample = True"),
    ("unet/config.json", {"num_class_embeds": 10}, "is of another architecture"),
    ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
    ("unet/config.json", {"block_out_channels": [8, 16]}, "is of another architecture"),
])  # fmt: skip
def test_what_we_would_sample_otherwise_is_refused_and_named(
    file: str, values: dict[str, Any], named: str
) -> None:
    folder = foreign("foreign")
    change(folder / file, **values)
    assert named in refusal(folder)


def test_a_damaged_foreign_folder_is_refused_by_the_name_of_the_file() -> None:
    folder = foreign("foreign")
    for text, expected in (("{", "cannot be read"), ("[]", "is not a JSON object"), ("{}", "sample_size")):
        (folder / "unet" / "config.json").write_text(text)
        message = refusal(folder)
        assert "unet" in message and expected in message
    shutil.rmtree(folder / "scheduler")
    assert "scheduler_config.json: cannot be read" in refusal(folder)


@pytest.mark.slow
def test_the_unet_comes_alone_and_is_diffusers_own() -> None:
    """Its packages import all transformers and scipy: a second of each command's start."""
    script = (
        "import sys; from toolkit.hf.lean import unet_class; UNet = unet_class();"
        "assert 'diffusers.models.transformers.transformer_cosmos' not in sys.modules;"
        "from diffusers import DDPMPipeline, UNet2DConditionModel, UNet2DModel; assert UNet2DModel is UNet"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_diffusers_opens_a_pipeline_in_a_process_without_the_toolkit(runs: Path) -> None:
    """It imports what is installed: a torchvision built for another torch than the one here breaks it."""
    script = (
        "import sys; from diffusers import DDPMPipeline;"
        "assert DDPMPipeline.from_pretrained(sys.argv[1]).unet.config.sample_size == 8;"
        "assert not any(name.partition('.')[0] == 'toolkit' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(runs / "ddpm" / "pipeline")], check=True)


def test_a_grid_is_not_spaced_as_the_one_before(runs: Path) -> None:
    pipeline = toolkit.load(runs / "ddpm").with_sampler(
        "diffusers", scheduler="DDIMScheduler", num_inference_steps=3
    )
    sampler, schedule = pipeline.sampler, pipeline.schedule
    plain = sampler.grid(schedule, 3, None)
    assert sampler.grid(schedule, 3, "trailing") != plain
    assert sampler.grid(schedule, 3, None) == plain
