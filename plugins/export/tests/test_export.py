"""Exported networks compute what the originals do, from files alone; what cannot be exported is named."""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import toolkit
from toolkit.cli import main
from toolkit.pipeline.folder import Saved
from toolkit_export.network import part_of
from toolkit_export.writing import FORMATS, compare, most_at_once, traced

CPU = torch.device("cpu")
CHAIN = {"type": "linear", "num_train_timesteps": 4, "beta_start": 0.1, "beta_end": 0.9}
GAN = {"type": "linear", "num_train_timesteps": 1, "beta_start": 1.0, "beta_end": 1.0}
UNET = {
    "block_out_channels": [8, 8], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "layers_per_block": 1,
}  # fmt: skip


def command(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return " ".join(result.output.split())


def format_of(kind: str) -> tuple[Any, Any]:
    """How a format is written and read; the test is left out where packages for ONNX are missing."""
    for package in ("onnxruntime", "onnxscript") if kind == "onnx" else ():
        pytest.importorskip(package)
    return FORMATS[kind]


def pipeline_of(
    network: dict[str, object], schedule: dict[str, object], classes: int | None,
    sample_shape: tuple[int, ...] = (1, 8, 8), encoder: dict[str, object] | None = None,
) -> toolkit.Pipeline:  # fmt: skip
    tables = {"sampler": {"type": "ancestral"}, "start": {"type": "noise"}, "encoder": encoder}
    saved = Saved(
        sample_shape=sample_shape, image_shape=(1, 8, 8) if encoder else None, num_classes=classes,
        network=network, schedule=schedule, **tables,
    )  # fmt: skip
    torch.manual_seed(0)
    return toolkit.Pipeline.from_saved(saved, toolkit.load_plugins().registry, "here")


@pytest.mark.slow
def test_ddim_from_the_file_alone_draws_the_samples_of_the_pipeline(runs: Path) -> None:
    """The loop of docs/howto/export.md, with torch.export's file."""
    pipeline = toolkit.load(runs / "ddpm").with_sampler("ddim", num_inference_steps=3)
    pipeline.save_pretrained("model")
    said = command("model", "--format", "torch", "--out", "model.pt2")
    assert "UNet in model.pt2" in said and "differs from the original by at most" in said
    walk = json.loads(Path("model.pt2.json").read_text())["walk"]
    network = torch.export.load("model.pt2").module()

    n = 4
    x = toolkit.randn((n, *pipeline.sample_shape), toolkit.generators_for(0, 0, n, CPU), CPU)
    steps = list(zip(walk["times"], walk["alpha"], walk["sigma"], strict=True))
    with torch.inference_mode():
        for (t, a, s), (_, to_a, to_s) in zip(steps[:-1], steps[1:], strict=True):
            x0 = network(x_t=x, t=torch.full((n,), t))
            x0 = x0.clamp(-1, 1) if walk["sampler"].get("clip") else x0
            x = to_a * x0 + to_s * (x - a * x0) / s
    (samples,) = pipeline.sample(n, seed=0)
    assert torch.allclose(x.clamp(-1, 1), samples, atol=1e-4)


@pytest.mark.slow
def test_onnx_gives_the_estimates_of_a_generator_with_its_latents(runs: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    command(runs / "ddgan", "--out", "model.onnx")
    description = json.loads(Path("model.onnx.json").read_text())
    assert description["output"] == "x0" and set(description["inputs"]) == {"x_t", "t", "latent"}
    session = onnxruntime.InferenceSession("model.onnx")
    denoiser = toolkit.load(runs / "ddgan").denoiser
    x_t, t = torch.randn(7, *description["inputs"]["x_t"]["shape"][1:]), torch.ones(7, dtype=torch.int64)
    z = denoiser.latent(7, None)
    assert z is not None
    (found,) = session.run(None, {"x_t": x_t.numpy(), "t": t.numpy(), "latent": z.numpy()})
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(found), denoiser(x_t, t, latent=z).x0, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize(
    ("network", "schedule", "any_size"),
    [
        ({"type": "unet", **UNET}, CHAIN, True),
        ({"type": "unet", **UNET, "conditional": True}, CHAIN, False),
        ({"type": "dit", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}, CHAIN, False),
        ({"type": "mbconv_unet", **UNET}, CHAIN, True),
        ({"type": "sngan_generator", "width": 8, "latent_width": 4}, GAN, False),
    ],
    ids=["unet", "conditional unet", "dit", "mbconv", "sngan"],
)
def test_networks_are_the_same_after_a_round_through_a_file(
    tmp_path: Path, network: dict[str, object], schedule: dict[str, object], any_size: bool, kind: str
) -> None:
    write, read = format_of(kind)
    exportable = part_of(pipeline_of(network, schedule, classes=3), "denoiser")
    program = traced(exportable, any_size)
    write(program, exportable, tmp_path / "network")
    difference, tolerance = compare(exportable, read(tmp_path / "network"), any_size)
    assert difference < 0.1 * tolerance
    assert most_at_once(program) in (None, 63)


@pytest.mark.slow
def test_a_network_of_one_size_is_refused_by_name_where_sizes_are_to_be_open(tmp_path: Path) -> None:
    network = {"type": "dit", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
    exportable = part_of(pipeline_of(network, CHAIN, None), "denoiser")
    with pytest.raises(toolkit.RunError, match="^DiT cannot be exported without --any-size"):
        traced(exportable, any_size=True)


def tiny_autoencoder(kind: str) -> dict[str, object]:
    """The table of an encoder that makes 2x4x4 of an 8x8 picture, with weights as drawn, in "coder"."""
    torch.manual_seed(0)
    match kind:
        case "AutoencoderKL":
            diffusers.AutoencoderKL(
                in_channels=1, out_channels=1, latent_channels=2, norm_num_groups=4,
                block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2,
                up_block_types=["UpDecoderBlock2D"] * 2,
            ).save_pretrained("coder")  # fmt: skip
        case "AutoencoderTiny":
            diffusers.AutoencoderTiny(
                in_channels=1, out_channels=1, latent_channels=2, encoder_block_out_channels=(8, 8),
                decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
            ).save_pretrained("coder")  # fmt: skip
        case "trained":
            registry = toolkit.load_plugins().registry
            options = {"block_out_channels": [8, 8], "latent_channels": 2, "norm_num_groups": 4}
            table = registry.resolve(toolkit.Denoiser, {"type": "autoencoder_kl", **options})
            saved = Saved(network=table, sample_shape=(1, 8, 8), num_classes=None)
            network = saved.build("network", registry, saved.supplied(), "coder")
            toolkit.SavedNetwork(network, saved).save_pretrained("coder")
            return {"type": "trained", "from_run": "coder"}
    return {"type": "diffusers_autoencoder", "path": "coder"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("coder", "kind"),
    [("AutoencoderKL", "torch"), ("AutoencoderKL", "onnx"), ("AutoencoderTiny", "onnx"), ("trained", "onnx")],
)
def test_a_decoder_in_a_file_makes_the_images_of_a_latent_model(coder: str, kind: str) -> None:
    _, read = format_of(kind)
    encoder = tiny_autoencoder(coder)
    model = pipeline_of({"type": "unet", **UNET}, CHAIN, None, sample_shape=(2, 4, 4), encoder=encoder)
    model.save_pretrained("latent")
    said = command("latent", "--part", "decoder", "--format", kind, "--out", "decoder", "--any-size")
    description = json.loads(Path("decoder.json").read_text())
    assert description["inputs"]["latents"]["shape"] == ["n", 2, "height", "width"]
    assert description["output"] == "images" and "walk" not in description and "in decoder" in said
    decode = toolkit.load("latent").encoder.decode
    z = torch.randn(3, 2, 6, 4)
    with torch.inference_mode():
        assert torch.allclose(read(Path("decoder"))({"latents": z}), decode(z), rtol=1e-4, atol=1e-5)
    (note,) = part_of(model, "denoiser").notes
    assert "it makes latents: --part decoder" in note


def test_a_network_that_computes_something_else_is_not_kept() -> None:
    exportable = part_of(pipeline_of({"type": "unet", **UNET}, CHAIN, None), "denoiser")

    def other(inputs: dict[str, Tensor]) -> Tensor:
        return exportable.module(**inputs) * 1.01

    with pytest.raises(toolkit.RunError, match="the exported UNet differs from the original by"):
        compare(exportable, other, any_size=False)


def test_what_cannot_be_exported_is_refused_by_name(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has no [encoder]" in refusal(runs / "ddpm", "--part", "decoder")
    Path("there.onnx").write_text("mine")
    assert "there.onnx" in refusal(runs / "ddpm", "--out", "there.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'diffusion-toolkit[onnx]'" in refusal(runs / "ddpm", "--out", "new.onnx")
    assert sorted(path.name for path in Path().iterdir()) == ["there.onnx"]


def test_a_model_that_begins_at_another_ones_samples_is_refused(runs: Path) -> None:
    started = toolkit.load(runs / "ddpm").with_start("surrogate", surrogate=str(runs / "ddpm"), t_mid=1)
    with pytest.raises(toolkit.RunError, match="begin with the start 'surrogate', which is not exported"):
        part_of(started, "denoiser")
