"""Saved MBConv networks: the round trip, and that the wrong class never opens them with random weights."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from mbconv_pipelines import network, pipeline
from safetensors.torch import save_file

import toolkit
from toolkit import CheckpointError, RecipeError
from toolkit_mbconv.unet import MBConvUNet2DModel


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def as_unet(path: Path, *, keep: bool) -> None:
    """Name the core's network in pipeline.json; `keep` the options that it does not have."""
    table = {**json.loads(path.read_text())["network"], "type": "unet", "init": "torch"}
    if not keep:
        del table["expansion"], table["se"]
    change(path, network=table)


def test_a_saved_pipeline_samples_the_same_bits() -> None:
    made = pipeline()
    made.save_pretrained("saved")
    images = [torch.cat(list(p.sample(3, seed=1))) for p in (made, toolkit.load("saved"))]
    assert float((images[0] - images[1]).abs().max()) == 0.0


def test_a_pipeline_that_is_renamed_to_the_cores_unet_is_refused() -> None:
    pipeline().save_pretrained("saved")
    as_unet(Path("saved/pipeline.json"), keep=True)
    with pytest.raises(RecipeError, match=r"'unet' has no option 'expansion'"):
        toolkit.load("saved")


def test_a_pipeline_that_is_renamed_with_its_options_is_refused_for_its_weights() -> None:
    pipeline().save_pretrained("saved")
    as_unet(Path("saved/pipeline.json"), keep=False)
    with pytest.raises(
        CheckpointError, match=r"is of another architecture: it .* 'model\.down_blocks\.0\.resnets\.0\."
    ):
        toolkit.load("saved")


def test_a_saved_pipeline_holds_nothing_that_diffusers_would_open() -> None:
    pipeline().save_pretrained("saved")
    files = sorted(path.name for path in Path("saved").iterdir())
    assert files == ["README.md", "pipeline.json", "weights.safetensors"]
    for opener in (diffusers.UNet2DModel, diffusers.DDPMPipeline):
        with pytest.raises(OSError, match="no file named"):
            opener.from_pretrained("saved")


def test_the_model_itself_comes_back_from_its_config_with_every_weight() -> None:
    model = network(init="torch", expansion=2, se=0.5).model.eval()
    model.save_pretrained("unet")
    again = MBConvUNet2DModel.from_pretrained("unet")
    assert (again.config.expansion, again.config.se, again.config.norm_num_groups) == (2, 0.5, 4)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 17])
    with torch.no_grad():
        assert float((again(x, t).sample - model(x, t).sample).abs().max()) == 0.0


@pytest.mark.parametrize("careful", [True, False])
def test_plain_unet2dmodel_refuses_the_weights_of_the_model(careful: bool) -> None:
    network().model.save_pretrained("unet")
    with pytest.raises((ValueError, RuntimeError), match=r"conv1\.weight"):
        diffusers.UNet2DModel.from_pretrained("unet", low_cpu_mem_usage=careful)


@pytest.fixture
def foreign() -> Path:
    """What diffusers writes of a pipeline around the model."""
    diffusers.DDPMPipeline(network().model, diffusers.DDPMScheduler()).save_pretrained("foreign")
    return Path("foreign")


def test_diffusers_cannot_open_a_pipeline_around_the_model(foreign: Path) -> None:
    with pytest.raises(ValueError, match="MBConvUNet2DModel"):
        diffusers.DDPMPipeline.from_pretrained(foreign)


def test_a_foreign_pipeline_around_the_model_is_refused_by_its_class(foreign: Path) -> None:
    with pytest.raises(CheckpointError, match="MBConvUNet2DModel"):
        toolkit.load(foreign)


def test_a_foreign_pipeline_that_only_claims_a_plain_unet_is_refused_by_the_class_in_its_config(
    foreign: Path,
) -> None:
    change(foreign / "model_index.json", unet=["diffusers", "UNet2DModel"])
    with pytest.raises(CheckpointError, match=r"unet/config\.json: is of a MBConvUNet2DModel, not of"):
        toolkit.load(foreign)


def test_a_foreign_pipeline_whose_classes_all_lie_is_refused_for_its_weights(foreign: Path) -> None:
    change(foreign / "model_index.json", unet=["diffusers", "UNet2DModel"])
    change(foreign / "unet" / "config.json", _class_name="UNet2DModel")
    with pytest.raises(CheckpointError, match="is of another architecture"):
        toolkit.load(foreign)


def test_weights_that_lack_one_tensor_of_a_block_are_refused() -> None:
    made = pipeline()
    made.save_pretrained("saved")
    state = made.denoiser.state_dict()
    gone = "model.mid_block.resnets.0.excite.squeeze.weight"
    save_file(
        {name: t.contiguous() for name, t in state.items() if name != gone}, "saved/weights.safetensors"
    )
    with pytest.raises(CheckpointError, match=f"lacks '{gone}'"):
        toolkit.load("saved")
