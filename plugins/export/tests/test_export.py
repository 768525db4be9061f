"""Exported networks compute what the originals do, from files alone; what cannot be exported is named."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import toolkit
from toolkit.cli import main
from toolkit.pipeline.folder import Saved
from toolkit_export.network import part_of
from toolkit_export.writing import compare, most_at_once, read_torch, traced, write_torch

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


def pipeline_of(
    network: dict[str, object], schedule: dict[str, object], classes: int | None
) -> toolkit.Pipeline:
    tables = {"sampler": {"type": "ancestral"}, "start": {"type": "noise"}}
    saved = Saved(sample_shape=(1, 8, 8), num_classes=classes, network=network, schedule=schedule, **tables)
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
@pytest.mark.parametrize(
    ("network", "schedule", "any_size"),
    [
        ({"type": "unet", **UNET}, CHAIN, True),
        ({"type": "unet", **UNET, "conditional": True}, CHAIN, False),
        ({"type": "dit", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}, CHAIN, False),
        ({"type": "mbconv_unet", **UNET}, CHAIN, False),
        ({"type": "sngan_generator", "width": 8, "latent_width": 4}, GAN, False),
    ],
    ids=["unet", "conditional unet", "dit", "mbconv", "sngan"],
)
def test_networks_are_the_same_after_a_round_through_a_file(
    tmp_path: Path, network: dict[str, object], schedule: dict[str, object], any_size: bool
) -> None:
    exportable = part_of(pipeline_of(network, schedule, classes=3), "denoiser")
    program = traced(exportable, any_size)
    write_torch(program, exportable, tmp_path / "network.pt2")
    difference, tolerance = compare(exportable, read_torch(tmp_path / "network.pt2"), any_size)
    assert difference < 0.1 * tolerance
    assert most_at_once(program) in (None, 63)


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
