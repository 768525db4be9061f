"""The benchmarks for a GPU run from end to end, on a CPU with small networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


def run(name: str, *arguments: object) -> None:
    command = [sys.executable, BENCHMARKS / name, "--device", "cpu", "--tiny", *arguments]
    env = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}  # tracing small networks would take most of the time
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=900, env=env)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_every_row_of_the_benchmark_has_numbers(tmp_path: Path) -> None:
    run("gpu.py", "--minutes", 60, "--out", tmp_path / "gpu.json")
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert not results["skipped"]
    for row in results["rows"]:
        kind = row["what"].split()[0]
        number = {"train": "images_per_second", "sample": "images_per_second", "profile": "ms_a_step"}
        assert row[number.get(kind, "tflops")] > 0, row
    trained = [row for row in results["rows"] if row["what"].startswith("train")]
    assert all(row["ratio_to_bare"] > 0 for row in trained if not row["compiled"])
    assert all(row["tflop_a_step"] > 0 for row in trained)


def test_rows_that_do_not_fit_into_the_time_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--device", "cpu", "--tiny", "--minutes", "0", "--out", str(tmp_path / "gpu.json")]
    monkeypatch.setattr("sys.argv", ["gpu.py", *flags])
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["rows"] == [] and "train ddpm_cifar: bf16" in results["skipped"]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not CIFAR.is_dir(), reason="no CIFAR-10 here")
def test_training_for_minutes_leaves_samples_and_scores(tmp_path: Path) -> None:
    run("train_gpu.py", "--data", CIFAR, "--num", 40, "--out", tmp_path)
    for name in ("ddpm_cifar", "flow_cifar", "ddgan_cifar"):
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["frechet_classifier"] >= 0 and result["sample_images_per_second"] > 0
        assert (tmp_path / f"{name}.png").exists()
