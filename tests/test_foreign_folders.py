"""Edited folders of diffusers' pipelines: they sample, or are refused by the file and the key."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import toolkit
from toolkit import CheckpointError, RecipeError

UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
HUGE, NAN = 10**30, float("nan")
EDITS: list[tuple[str, str, list[Any]]] = [
    (UNET, "sample_size", ["x", None, 0, -8, 8.5, True, [8], [8, 8, 8], [8, "x"], [16, 8], 7]),
    (UNET, "sample_size", [10**9, HUGE, NAN, {}]),
    (UNET, "in_channels", ["x", 0, 1, 2.5, 10**7, [3]]),
    (UNET, "out_channels", ["x", 6, 0, None]),
    (UNET, "block_out_channels", [[], [8], [8, 0], [8, 9], [8, 10**6], "x", 8, [[8, 8]]]),
    (UNET, "layers_per_block", [0, 2, 10**6, "x", [1], NAN]),
    (UNET, "down_block_types", [[], ["DownBlock2D"], ["x", "y"], "DownBlock2D"]),
    (UNET, "up_block_types", [["UpBlock2D", "UpBlock2D"], ["UpBlock2D", "CrossAttnUpBlock2D"], None]),
    (UNET, "norm_num_groups", [0, 3, None, "x", 2]),
    (UNET, "attention_head_dim", [0, 3, None, "x", 2]),
    (UNET, "act_fn", ["x", None, "relu"]),
    (UNET, "dropout", [NAN, -1, 1, "x", 0.5]),
    (UNET, "time_embedding_type", ["x", "fourier", "learned"]),
    (UNET, "time_embedding_dim", [0, 10**9, "x"]),
    (UNET, "freq_shift", [4, 1, NAN]),
    (UNET, "mid_block_scale_factor", [0, "x", 2]),
    (UNET, "prediction", ["x"]),  # of ours, not diffusers'
    (UNET, "conditional", [True]),
    (UNET, "_class_name", [None, "x\ny", ["UNet2DModel"]]),
    (SCHEDULER, "trained_betas", [[], [0.1], [0.1] * 20, [0.1] * 19 + [2.0], [NAN] * 20]),
    (SCHEDULER, "trained_betas", [["x"] * 20, "x", 0.1, None]),
    (SCHEDULER, "num_train_timesteps", [0, -1, 10, "x", None, 20.5, 10**9, HUGE, NAN]),
    (SCHEDULER, "beta_start", [0, -1, 2, "x", NAN, None]),
    (SCHEDULER, "beta_end", [0, 1.5, 1e300, [0.1]]),
    (SCHEDULER, "beta_schedule", ["x", None, "sigmoid", "squaredcos_cap_v2"]),
    (SCHEDULER, "rescale_betas_zero_snr", ["x", True]),
    (SCHEDULER, "prediction_type", ["x", None, "sample", 1]),
    (SCHEDULER, "variance_type", ["x", None, 1, "fixed_large", "learned"]),
    (SCHEDULER, "timestep_spacing", ["x", None, "trailing", []]),
    (SCHEDULER, "clip_sample", ["x", None, 1, False]),
    (SCHEDULER, "clip_sample_range", ["x", 0, 2.0, NAN]),
    (SCHEDULER, "steps_offset", ["x", 1, -1, HUGE]),
    (SCHEDULER, "thresholding", [True, "x"]),
    (SCHEDULER, "_class_name", [None, "x", ["DDPMScheduler"], "DDIMScheduler"]),
    (INDEX, "_class_name", [None, "x\ny", ["DDPMPipeline"], "DDIMPipeline"]),
    (INDEX, "unet", [None, "x", ["diffusers", "x"], ["x", "UNet2DModel"], [], {"a": 1}]),
    (INDEX, "scheduler", [None, "x", ["diffusers", "x"], ["diffusers", "DDIMScheduler"]]),
    (INDEX, "vae", [["diffusers", "VQModel"], [None, None]]),
]  # fmt: skip

# What is wrong with a value that its own type allows, where another key is as much at fault.
OTHERWISE = ("is of another architecture", "must be divisible", "says nothing of x_0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder as diffusers writes it."""
    folder = tmp_path_factory.mktemp("foreign") / "saved"
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=20, beta_start=1e-3, beta_end=0.3)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder


def outcome(folder: Path) -> str:
    """The refusal, or "" after sampling."""
    try:
        pipeline = toolkit.load(folder)
    except (CheckpointError, RecipeError) as error:
        return str(error)
    (image,) = pipeline(1, torch.Generator().manual_seed(0), num_inference_steps=2, output_type="pt").images
    assert image.isfinite().all()
    return ""


@pytest.mark.parametrize(("file", "key", "values"), EDITS, ids=[f"{file}-{key}" for file, key, _ in EDITS])
def test_an_edited_folder_samples_or_is_refused_by_the_file_and_the_key(
    file: str, key: str, values: list[Any], saved: Path, tmp_path: Path
) -> None:
    for value in values:
        folder = shutil.copytree(saved, tmp_path / "edited", dirs_exist_ok=True)
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, key: value}))
        refusal = outcome(folder)
        if refusal:
            assert len(refusal.splitlines()) == 1 and str(folder) in refusal
            if file != INDEX and key not in ("_class_name", "prediction", "conditional"):
                named = f"{file}: " in refusal and key in refusal
                assert named or any(reason in refusal for reason in OTHERWISE), (value, refusal)


def test_without_an_edit_it_samples(saved: Path) -> None:
    assert outcome(saved) == ""


@pytest.mark.parametrize("file", [UNET, SCHEDULER, INDEX])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "null", '"x"', "[" * 10**5, "{}", "\x00", '{"a": 1e999}']
)
def test_what_is_no_configuration_is_refused_by_the_file(
    file: str, text: str, saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "edited")
    (folder / file).write_text(text)
    refusal = outcome(folder)
    assert (refusal and str(folder) in refusal) or text.startswith("{")
