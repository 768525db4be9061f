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
from toolkit_ddgan.importer import RUNS, OfficialGenerator, shapes_of
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


def run(file, out, *options):
    return CliRunner().invoke(main, ["import", "ddgan", str(file), str(out), *options])


def on_meta(shape, **options):
    """A generator without memory for its weights."""
    schedule = vp_sde(4)
    with torch.device("meta"):
        return PublishedGenerator(schedule, shape, **options)


def refusal(content, tmp_path, *options):
    torch.save(content, tmp_path / "file.pth")
    result = run(tmp_path / "file.pth", tmp_path / "out", *options)
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    return result.output


def described(state, **options):
    return OfficialGenerator(**options).describe(state)


def published(preset):
    """The generator of a published run, and its state dict, without memory for the weights."""
    side, wide = (32, {}) if preset == "cifar10" else (256, WIDE)
    generator = on_meta((3, side, side), **wide)
    return generator, official_parameters(generator.model)


SMALL = {"block_out_channels": (8, 16, 32), "layers_per_block": 1, "mapping_width": 8, "mapping_layers": 1}
WIDE = {"block_out_channels": (64, 64, 128, 128, 256, 256), "mapping_layers": 3}
OTHERS = [  # not published: sides, channels, and options
    (
        64,
        1,
        {"block_out_channels": (16, 24, 40), "layers_per_block": 1, "latent_width": 7, "mapping_layers": 0},
    ),
    (32, 4, {"block_out_channels": (8, 8), "layers_per_block": 3, "mapping_width": 12, "mapping_layers": 1}),
    (16, 3, {"block_out_channels": (8, 16), "latent_width": 50}),
    (32, 3, SMALL),
]


@pytest.fixture(scope="module")
def small():
    """A state dict of a generator that is quick to write and read."""
    model = PublishedGenerator(vp_sde(4), (3, 32, 32), **SMALL, attention_sides=(16,)).model
    return {name: torch.randn(p.shape) for name, p in official_parameters(model).items()}


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_imported_pipeline_samples_in_the_four_steps_of_the_one_run_with_these_shapes(folder):
    pipeline = toolkit.load(str(folder))
    assert pipeline.calls == 4 and isinstance(pipeline.denoiser.model, StyledUNet)
    (image,) = pipeline(1, torch.Generator().manual_seed(0), output_type="pt").images
    assert image.shape == (3, 32, 32) and image.isfinite().all()


@pytest.mark.slow
def test_an_imported_pipeline_is_replaced_only_on_request(state, folder, tmp_path):
    torch.save(state, tmp_path / "file.pth")
    result = run(tmp_path / "file.pth", folder)
    assert result.exit_code == 2 and "give --overwrite" in result.output


@pytest.mark.parametrize(("preset", "steps"), [("celebahq256", 2), ("lsun_church256", 4)])
def test_a_preset_says_which_of_two_runs_with_the_same_shapes(preset, steps):
    generator, state = published(preset)
    assert sum(p.numel() for p in generator.parameters()) == vectors()["param_counts"]["netG_256_nf64_112244"]
    saved = described(state, preset=preset)
    assert saved.schedule["num_train_timesteps"] == steps and saved.sample_shape == (3, 256, 256)
    assert described(state, num_train_timesteps=8).schedule["num_train_timesteps"] == 8


def test_shapes_of_two_published_runs_are_asked_about_and_not_guessed():
    choices = (
        "has the shapes of celebahq256 and lsun_church256, which leaves num_train_timesteps open: "
        "give --preset celebahq256 or lsun_church256, or --set num_train_timesteps="
    )
    with pytest.raises(ValueError, match=choices):
        described(published("celebahq256")[1])


def test_the_shapes_of_every_published_run_are_read_from_its_file():
    assert set(RUNS) == {"cifar10", "celebahq256", "lsun_church256"}
    for preset, (shapes, _) in RUNS.items():
        assert shapes_of(published(preset)[1]) == shapes


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(("side", "channels", "options"), OTHERS)
def test_any_widths_and_z_are_read_from_the_file(side, channels, options, level):
    """The described network is the one whose file it is; attention may be at any level, the last one too."""
    options = {**options, "attention_sides": (side >> level,)}
    state = official_parameters(on_meta((channels, side, side), **options).model)
    saved = described(state, num_train_timesteps=3, size=side)
    assert saved.sample_shape == (channels, side, side) and saved.schedule["num_train_timesteps"] == 3
    table = {**saved.network}
    assert table.pop("type") == "ddgan_generator"
    again = official_parameters(on_meta(saved.sample_shape, **table).model)
    assert {name: p.shape for name, p in again.items()} == {name: p.shape for name, p in state.items()}


@pytest.mark.parametrize("attention", [(), (32, 16)])
def test_a_size_that_attention_does_not_tell_is_asked_for(attention):
    state = official_parameters(on_meta((3, 32, 32), **{**SMALL, "attention_sides": attention}).model)
    with pytest.raises(ValueError, match=f"attention at {len(attention)} levels.*give --set size=PIXELS"):
        described(state, num_train_timesteps=4)
    network = described(state, num_train_timesteps=4, size=32).network
    assert network["attention_sides"] == list(attention)


def test_a_file_of_no_published_run_is_imported_with_its_number_of_steps(small, tmp_path):
    said = refusal(small, tmp_path)
    assert "no published run, which leaves num_train_timesteps open: give --set num_train" in said
    result = run(tmp_path / "file.pth", tmp_path / "out", "--set", "num_train_timesteps=2")
    assert result.exit_code == 0, result.output
    pipeline = toolkit.load(str(tmp_path / "out"))
    assert pipeline.calls == 2 and pipeline.draw(None, 1).shape == (1, 3, 32, 32)
    found = official_parameters(pipeline.denoiser.model)
    assert all(torch.equal(found[name], tensor) for name, tensor in small.items())


def test_another_preset_is_refused_with_what_differs(small, tmp_path):
    said = refusal(small, tmp_path, "--preset", "celebahq256")
    assert "is not of preset 'celebahq256': block_out_channels is (8, 16, 32), not (64, 64, 128" in said


def test_options_that_there_are_not_are_named(small, tmp_path):
    said = refusal(small, tmp_path, "--set", "num_train_timestep=2")
    assert "Did you mean 'num_train_timesteps'?" in said
    assert "size" in refusal(small, tmp_path, "--set", "size=0")
    assert "must be divisible by 4" in refusal(
        small, tmp_path, "--set", "num_train_timesteps=2", "--set", "size=33"
    )


def test_a_tensor_of_another_shape_is_named(small, tmp_path):
    wrong = {**small, "all_modules.0.bias": torch.zeros(5)}
    said = refusal(wrong, tmp_path, "--set", "num_train_timesteps=2")
    assert "'all_modules.0.bias' is (5,) there and (32,) here" in said


@pytest.mark.parametrize(
    "lost", ["all_modules.3.Conv_0.weight", "all_modules.2.weight", "z_transform.1.weight"]
)
def test_a_file_without_one_of_its_tensors_is_refused(lost, small, tmp_path):
    rest = {name: tensor for name, tensor in small.items() if name != lost}
    said = refusal(rest, tmp_path, "--set", "num_train_timesteps=2")
    assert lost in said or "is no generator of the authors' code" in said
    assert len(said.strip().splitlines()) == 1


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
    assert (
        'must be one of "cifar10"'
        in run(tmp_path / "absent.pth", tmp_path / "out", "--preset", "cifar").output
    )
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
