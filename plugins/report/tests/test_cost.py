"""`toolkit cost`: closed forms where there are any, and the records of the run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import toolkit
from toolkit.cli import main
from toolkit.runs.read import read_run
from toolkit_report.cost import flops, measure_cost

KEYS = {
    "parameters", "samples_per_second", "batch_size", "network_calls", "flops_per_image", "peak_memory_bytes",
    "peak_memory", "train_images_per_second", "train_seconds", "device", "threads",
}  # fmt: skip


def cost(run: Path, *more: str) -> Result:
    flags = ["--device", "cpu", "--seconds", "0", "--batch-size", "2", *more]
    return CliRunner().invoke(main, ["cost", str(run), *flags], catch_exceptions=False)


@pytest.mark.parametrize("name", ["ddpm", "ddgan"])
def test_the_cost_card_of_a_run(runs: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(runs / name, tmp_path / "run"))
    assert cost(run).exit_code == 0
    found, summary = json.loads((run / "cost.json").read_text()), read_run(run)
    assert found.keys() == KEYS
    assert found["network_calls"] == {"ddpm": 20, "ddgan": 4}[name]
    assert found["train_seconds"] == summary.train_seconds > 0
    assert found["train_images_per_second"] == summary.images_per_second
    assert (found["device"], found["batch_size"], found["threads"]) == ("cpu", 2, torch.get_num_threads())
    assert "resident" in found["peak_memory"] and found["peak_memory_bytes"] >= 0
    (checkpoint,) = (run / "checkpoints").iterdir()
    for role, count in found["parameters"].items():
        state = load_file(checkpoint / "networks" / f"{role}.safetensors")
        buffers = dict(toolkit.load(run).denoiser.named_buffers()) if role == "denoiser" else {}
        assert count == sum(t.numel() for key, t in state.items() if key not in buffers)
    assert set(found["parameters"]) == {"ddpm": {"denoiser"}, "ddgan": {"denoiser", "discriminator"}}[name]


def test_operations_are_those_of_every_network_call(runs: Path) -> None:
    pipeline = toolkit.load(runs / "ddpm")
    with FlopCounterMode(display=False) as whole:
        next(pipeline.sample(1))
    assert flops(pipeline) == whole.get_total_flops() > 0
    fewer = pipeline.with_sampler(num_inference_steps=5)
    assert flops(fewer) == whole.get_total_flops() / 4
    assert flops(pipeline.with_sampler(num_inference_steps=1)) == whole.get_total_flops() / 20


def test_operations_of_one_linear_layer_are_two_for_each_weight() -> None:
    """What the counter takes for one: products and sums, also where no gradient is recorded."""
    layer = torch.nn.Linear(30, 7)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        layer(torch.zeros(5, 30))
    assert counter.get_total_flops() == 2 * 5 * 30 * 7


def test_samples_a_second_are_those_of_whole_draws(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 2))  # 2 seconds pass between two looks at it
    monkeypatch.setattr("toolkit_report.cost.time.perf_counter", lambda: float(next(clock)))
    found = measure_cost(toolkit.load(runs / "ddpm"), None, batch_size=3, seconds=3)
    # Looked at before, after draws 1 and 2, and for the result: 2 draws of 3 in 6 seconds.
    assert found.samples_per_second == pytest.approx(2 * 3 / 6)
    assert found.train_seconds is None and set(found.parameters) == {"denoiser"}


def test_another_sampler_is_shown_and_not_taken_for_the_models_own(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "ddpm", tmp_path / "run"))
    shown = cost(run, "--steps", "5").output
    assert "network calls            5\n" in shown and not (run / "cost.json").exists()


def test_what_is_no_run_has_no_place_for_it(runs: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(runs / "ddpm" / "pipeline", tmp_path / "elsewhere")
    done = cost(moved)
    assert done.exit_code == 2 and "is not a run" in done.stderr


def test_attention_counts_on_a_cpu_too(runs: Path) -> None:
    """Two products of 6 by 6 by 8 for each of 4 heads in every network call."""
    pipeline = toolkit.load(runs / "ddpm")
    without, heads = flops(pipeline), torch.ones(1, 4, 6, 8)

    def attend(*told: object) -> None:
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)

    next(pipeline.denoiser.children()).register_forward_hook(attend)
    assert flops(pipeline) - without == pipeline.calls * 2 * (2 * 6 * 6 * 8) * 4


def test_a_pipeline_beside_the_runs_own_leaves_its_cost_alone(runs: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs / "ddpm", tmp_path / "run"))
    shutil.copytree(run / "pipeline", run / "fast")
    done = cost(run / "fast")
    assert done.exit_code == 2 and "is not a run" in done.stderr and not (run / "cost.json").exists()
    assert cost(run / "pipeline").exit_code == 0 and (run / "cost.json").exists()
