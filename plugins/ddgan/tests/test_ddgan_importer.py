from collections import OrderedDict

import pytest
import torch
from click.testing import CliRunner
from ddgan_reference import filled, vectors
from diffusers.models.attention_processor import Attention
from torch import nn

import toolkit
from toolkit.cli import main
from toolkit.diffusion.chain import vp_sde
from toolkit_ddgan.blocks import PyramidConv, ResidualBlock
from toolkit_ddgan.generator import PublishedGenerator
from toolkit_ddgan.importer import OfficialGenerator
from toolkit_ddgan.official import official_modules, official_parameters
from toolkit_ddgan.unet import StyledUNet

KINDS = {
    nn.Linear: "Linear", nn.Conv2d: "Conv2d", nn.GroupNorm: "GroupNorm", Attention: "AttnBlockpp",
    ResidualBlock: "ResnetBlockBigGANpp_Adagn", PyramidConv: "Downsample",
}  # fmt: skip
NAMES = vectors()["cifar10_netG_state_dict"]


@pytest.fixture(scope="module")
def state():
    """A state dict with the official names and shapes, as a run over several processes saves it."""
    return OrderedDict((f"module.{name}", value) for name, value in filled(NAMES, gain=1.0).items())


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    """The pipeline folder that `toolkit import` makes of it."""
    work = tmp_path_factory.mktemp("import")
    torch.save(state, work / "netG_1200.pth")
    result = run(work / "netG_1200.pth", work / "out")
    assert result.exit_code == 0, result.output
    return work / "out"


def run(file, out, preset="cifar10"):
    return CliRunner().invoke(main, ["import", "ddgan", str(file), str(out), "--preset", preset])


def on_meta(shape, **options):
    """A generator without memory for its weights."""
    schedule = vp_sde(4)
    with torch.device("meta"):
        return PublishedGenerator(schedule, shape, **options)


def refusal(content, tmp_path, preset="cifar10"):
    torch.save(content, tmp_path / "file.pth")
    result = run(tmp_path / "file.pth", tmp_path / "out", preset)
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    return result.output


def test_every_tensor_of_the_file_arrives_under_its_name(state, folder):
    parameters = official_parameters(toolkit.load(str(folder)).denoiser.model)
    assert parameters.keys() == {name.removeprefix("module.") for name in state}
    assert all(
        torch.equal(parameters[name.removeprefix("module.")], tensor) for name, tensor in state.items()
    )


def test_every_parameter_of_ours_is_filled():
    model = on_meta((3, 32, 32)).model
    official = official_parameters(model).values()
    assert sum(p.numel() for p in official) == sum(p.numel() for p in model.parameters()) == 48_432_515


def test_every_block_is_of_the_official_kind_at_its_index():
    blocks = [(name, KINDS[type(block)]) for name, block in official_modules(on_meta((3, 32, 32)).model)]
    official = vectors()["cifar10_netG_module_kinds"]
    assert blocks == [(f"all_modules.{index}", kind) for index, kind, *_ in official]


def test_the_imported_pipeline_samples_in_the_four_steps_of_its_preset(folder):
    pipeline = toolkit.load(str(folder))
    assert pipeline.calls == 4 and isinstance(pipeline.denoiser.model, StyledUNet)
    (image,) = pipeline(1, torch.Generator().manual_seed(0), output_type="pt").images
    assert image.shape == (3, 32, 32) and image.isfinite().all()


def test_an_imported_pipeline_is_replaced_only_on_request(state, folder, tmp_path):
    torch.save(state, tmp_path / "file.pth")
    result = run(tmp_path / "file.pth", folder)
    assert result.exit_code == 2 and "give --overwrite" in result.output


def test_the_preset_of_celebahq256_has_its_published_size():
    options = {**OfficialGenerator("celebahq256").tables["network"]}
    assert options.pop("type") == "ddgan_generator"
    network = on_meta(OfficialGenerator("celebahq256").sample_shape, **options)
    assert sum(p.numel() for p in network.parameters()) == vectors()["param_counts"]["netG_256_nf64_112244"]


def test_another_preset_is_refused_by_the_first_tensor_that_differs(state, tmp_path):
    said = refusal(state, tmp_path, "celebahq256")
    assert "is not of preset 'celebahq256': it has" in said and "all_modules." in said


def test_a_tensor_of_another_shape_is_named(state, tmp_path):
    wrong = {**state, "module.all_modules.2.weight": torch.zeros(128, 1, 3, 3)}
    assert "'all_modules.2.weight' is (128, 1, 3, 3) there and (128, 3, 3, 3) here" in refusal(
        wrong, tmp_path
    )


def test_weights_of_something_else_are_refused(tmp_path):
    said = refusal(torch.nn.Linear(2, 2).state_dict(), tmp_path)
    assert "is no generator of the authors' code" in said


def test_a_file_that_holds_more_than_tensors_is_refused(tmp_path):
    assert "holds no state dict" in refusal({"netG_dict": {}, "epoch": 3}, tmp_path)
    assert "holds more than tensors" in refusal({"args": torch.nn.Linear(2, 2)}, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"<html>not found</html>"])
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "file.pth").write_bytes(content)
    result = run(tmp_path / "file.pth", tmp_path / "out")
    assert result.exit_code == 2 and str(tmp_path / "file.pth") in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_unknown_files_presets_and_importers_are_named(tmp_path):
    assert "No such file" in run(tmp_path / "absent.pth", tmp_path / "out").output
    assert 'must be one of "cifar10"' in run(tmp_path / "absent.pth", tmp_path / "out", "cifar").output
    command = ["import", "dgan", str(tmp_path / "absent.pth"), str(tmp_path / "out")]
    assert "Did you mean 'ddgan'?" in CliRunner().invoke(main, command).output


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_tensors_that_are_no_weights_are_named(dtype, state, tmp_path):
    name = "module.all_modules.2.weight"
    said = refusal({**state, name: state[name].to(dtype)}, tmp_path)
    assert "'all_modules.2.weight' is of" in said and len(said.strip().splitlines()) == 1


@pytest.mark.slow
def test_names_that_no_weights_have_are_refused(state, tmp_path):
    twice = {**state, "all_modules.2.weight": state["module.all_modules.2.weight"]}
    for content in ({**state, "x\n\x1b[2J": torch.zeros(1)}, {**state, 3: torch.zeros(1)}, {}, twice):
        assert len(refusal(content, tmp_path).strip().splitlines()) == 1
    assert "has a tensor twice" in refusal(twice, tmp_path)


def test_a_readme_is_refused_in_one_line(tmp_path):
    (tmp_path / "README.txt").write_text("Weights of the paper\n\nTrained for 1200 epochs.\n")
    result = run(tmp_path / "README.txt", tmp_path / "out")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert "README.txt: is no file of torch's" in result.output
    assert len(result.output.strip().splitlines()) == 1
