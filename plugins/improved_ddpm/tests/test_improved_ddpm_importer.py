"""Checkpoints of the authors' code: the published names and shapes, and the same function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from improved_ddpm_official import Official, official_shapes, random_state
from torch import Tensor

import toolkit
from toolkit import Chain
from toolkit.cli import main
from toolkit.hf.unet import UNet
from toolkit_improved_ddpm.importer import RUNS, OfficialUNet, official_parameters
from toolkit_improved_ddpm.schedule import cosine_betas

PUBLISHED: dict[str, tuple[tuple[Any, ...], dict[str, Any], int, int]] = {  # layout, side, parameters
    "cifar10": ((128, (1, 2, 2, 2), 3, (1, 2)), {}, 32, 52_546_438),
    "imagenet64": ((128, (1, 2, 3, 4), 3, (2, 3)), {}, 64, 121_063_942),
    "imagenet64_conditional": ((192, (1, 2, 3, 4), 3, (2, 3)), {"classes": 1000}, 64, 273_049_350),
    "lsun_bedroom256": ((128, (1, 1, 2, 2, 4, 4), 2, (4,)), {"scale_shift": False}, 256, 113_676_678),
}
TINY: list[tuple[tuple[Any, ...], dict[str, Any], int]] = [  # layout, heads
    ((32, (1, 2, 3), 1, (1, 2)), {}, 4),  # heads of 16 and 24 channels
    ((32, (1, 2), 2, (0,)), {"scale_shift": False, "learned": False, "channels": 1}, 1),
    ((32, (1, 2), 1, (1,)), {"classes": 5}, 2),
]
OPTIONS = {"num_train_timesteps": 40, "noise_schedule": "cosine", "rescale_timesteps": True}


def on_meta(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def run(file: Path, out: Path, **options: Any) -> Result:
    flags = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    return CliRunner().invoke(main, ["import", "improved_ddpm", str(file), str(out), *flags])


def imported(state: Mapping[str, Tensor], folder: Path, **options: Any) -> toolkit.Pipeline:
    torch.save(dict(state), folder / "ema_0.9999_500000.pt")
    result = run(folder / "ema_0.9999_500000.pt", folder / "out", **options)
    assert result.exit_code == 0, result.output
    return toolkit.load(folder / "out")


def refusal(state: Mapping[str, Tensor], folder: Path, **options: Any) -> str:
    torch.save(dict(state), folder / "model.pt")
    result = run(folder / "model.pt", folder / "out", **options)
    assert result.exit_code == 2 and not (folder / "out").exists(), result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    return result.output


def test_the_published_runs_are_those_whose_shapes_are_known() -> None:
    assert set(RUNS) == set(PUBLISHED)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_published_file_is_known_by_its_shapes_and_fills_the_described_network(preset: str) -> None:
    layout, options, side, parameters = PUBLISHED[preset]
    state = on_meta(official_shapes(*layout, **options))
    saved = OfficialUNet().describe(state)
    assert saved == OfficialUNet(preset=preset).describe(state)
    assert saved.sample_shape == (3, side, side) and saved.num_classes == options.get("classes")
    table = {**saved.network}
    assert table.pop("type") == "unet"
    chain = Chain([0.1] * 4)
    with torch.device("meta"):
        network = UNet(chain, saved.sample_shape, saved.num_classes, **table)
    ours = official_parameters(network.model)
    fused = {
        name.replace(".q.", ".qkv."): p for name, p in ours.items() if not {"k", "v"} & set(name.split("."))
    }
    assert fused.keys() == state.keys()
    assert (
        sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in state.values()) == parameters
    )


def test_what_shapes_do_not_tell_is_as_published() -> None:
    def saved(preset: str) -> Any:
        layout, options, _, _ = PUBLISHED[preset]
        return OfficialUNet().describe(on_meta(official_shapes(*layout, **options)))

    for preset in ("cifar10", "imagenet64"):
        assert saved(preset).schedule == {"type": "cosine_betas", "num_train_timesteps": 4000}
        assert saved(preset).network["time_scale"] == 0.25  # rescale_timesteps
        assert saved(preset).network["attention_heads"] == 4
    assert saved("imagenet64_conditional").network["time_scale"] == 1
    bedroom = saved("lsun_bedroom256")
    assert bedroom.schedule == {
        "type": "linear", "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02,
    }  # fmt: skip
    assert (bedroom.network["time_scale"], bedroom.network["attention_heads"]) == (1, 1)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(("layout", "options", "heads"), TINY)
@torch.no_grad()
def test_an_imported_network_computes_what_the_authors_does(
    layout: tuple[Any, ...], options: dict[str, Any], heads: int, rescale: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    state = random_state(official_shapes(*layout, **options))
    pipeline = imported(
        state, tmp_path, **{**OPTIONS, "rescale_timesteps": str(rescale).lower()}, num_heads=heads
    )
    side = 16 << layout[3][0]
    assert pipeline.saved.sample_shape == (options.get("channels", 3), side, side)
    x, t = torch.randn(3, options.get("channels", 3), side, side), torch.tensor([0, 7, 39])
    label = torch.tensor([0, 4, 2]) if "classes" in options else None
    expected = Official(state, heads)(x, t * 25 if rescale else t, label)
    prediction = pipeline.denoiser(x, t, label=label)
    noise, *fraction = expected.chunk(1 + options.get("learned", True), 1)
    assert torch.allclose(prediction.noise, noise, atol=2e-4 * float(noise.abs().max()))
    if fraction:
        scale = float(fraction[0].abs().max())
        assert torch.allclose(prediction.variance_fraction * 2 - 1, fraction[0], atol=2e-4 * scale)
    else:
        assert prediction.variance_fraction is None
    assert torch.equal(pipeline.schedule.betas, cosine_betas(40).betas)


def test_heads_and_rescaling_matter(tmp_path: Path) -> None:
    """Otherwise the test before this one would not see them."""
    torch.manual_seed(0)
    state = random_state(official_shapes(*TINY[0][0]))
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 30])
    outputs = [Official(state, heads)(x, t * scale) for heads, scale in ((4, 25), (4, 1), (2, 25))]
    spread = float(outputs[0].abs().max())
    assert all(float((outputs[0] - other).abs().max()) > 1e-2 * spread for other in outputs[1:])


def test_a_file_of_no_published_run_is_asked_about(tmp_path: Path) -> None:
    state = random_state(official_shapes(*TINY[0][0]))
    said = refusal(state, tmp_path)
    assert "has the shapes of no published run, which leaves num_train_timesteps, noise_schedule" in said
    assert "rescale_timesteps, num_heads open: give --set num_train_timesteps=..." in said
    assert "leaves num_heads open" in refusal(state, tmp_path, **{**OPTIONS, "rescale_timesteps": "true"})
    said = refusal(state, tmp_path, preset="cifar10")
    assert "is not of preset 'cifar10': block_out_channels is (32, 64, 96), not (128, 256, 256, 256)" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda state: {name: p for name, p in state.items() if name != "out.0.bias"},
            "no tensor 'out.0.bias'",
        ),
        (lambda state: {**state, "out.3.bias": torch.zeros(1)}, "a further tensor 'out.3.bias'"),
        (lambda state: {**state, "time_embed.2.bias": torch.zeros(7)}, r"(7,) there and (128,) here"),
        (lambda state: {"weight": torch.zeros(1)}, "is no UNet of the authors' code"),
        (lambda state: {name: p for name, p in state.items() if ".op." not in name}, "input_blocks."),
    ],
)
def test_weights_of_something_else_are_refused(change: Any, reason: str, tmp_path: Path) -> None:
    state = random_state(official_shapes(*TINY[0][0]))
    said = refusal(change(state), tmp_path, **{**OPTIONS, "rescale_timesteps": "true"}, num_heads=4)
    assert reason in said


def test_heads_that_do_not_divide_the_channels_are_refused(tmp_path: Path) -> None:
    state = random_state(official_shapes(*TINY[0][0]))
    said = refusal(state, tmp_path, **{**OPTIONS, "rescale_timesteps": "true"}, num_heads=5)
    assert "attention_heads = 5 must divide the channels" in said
