"""Networks in parts, over two processes: the same run, resumed exactly, by any number of processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sharding_runs import SIZES, interrupted
from tiny import TINY_DDPM, X0_DDGAN
from torch import Tensor, nn

from toolkit import Pipeline
from toolkit.devices.processes import Processes
from toolkit.devices.sharding import Sharded
from toolkit.errors import RecipeError, RunError
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.build import Built, build
from toolkit.training.loop import train

DRIVER = Path(__file__).with_name("sharding_runs.py")
# Two averages, of which snapshots are kept; grids in few calls.
DDPM = TINY_DDPM.replace("= 20", "= 6").replace("decay = 0.9", "widths = [0.05, 0.1]\nsnapshot_every = 5")
METHODS = pytest.mark.parametrize("method", ["ddpm", "ddgan"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "ddpm.toml").write_text(DDPM)
    (folder / "ddgan.toml").write_text(X0_DDGAN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVER), str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def losses(run: Path) -> list[dict[str, float]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    kept = ("loss", "gradient_norm", "r1")
    return [{key: value for key, value in record.items() if key.endswith(kept)} for record in records]


def tensors(run: Path) -> dict[str, Tensor]:
    """All of the last checkpoint."""
    folder = run / "checkpoints" / "step-0000010"
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)} {name}": t for file in files for name, t in load_file(file).items()}


def distance(one: Path, other: Path) -> float:
    """The largest difference of a number in the last checkpoints."""
    a, b = tensors(one), tensors(other)
    assert a and a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


@pytest.mark.slow
@METHODS
def test_losses_and_norms_are_those_of_whole_networks(runs: Path, method: str) -> None:
    parts, whole = losses(runs / "parts" / method), losses(runs / "whole" / method)
    assert len(parts) == len(whole) == 11  # ten steps and the held-out measures
    for one, other in zip(parts, whole, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
@METHODS
def test_weights_averages_and_moments_are_those_of_whole_networks(runs: Path, method: str) -> None:
    """Ten steps move weights by up to 1e-2; sums over rows in another order, by 1e-6."""
    assert distance(runs / "parts" / method, runs / "whole" / method) < 1e-5


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical_to_an_unbroken_one(runs: Path) -> None:
    assert distance(runs / "resumed/ddgan", runs / "parts/ddgan") == 0


@pytest.mark.slow
def test_a_run_goes_on_in_parts_and_whole_again_on_one_process(runs: Path) -> None:
    assert distance(runs / "joined/ddgan", runs / "whole/ddgan") < 1e-5
    copied, loaded = runs / "alone", plugins.load()
    interrupted(runs / "parts/ddgan", copied)
    options = [*SIZES, "run.log_every=1", "run.steps=10", f"run.out={copied}", "checkpoints.every=5"]
    train(resolve(read_layers(runs / "ddgan.toml", options), loaded.registry), loaded, resume=True)
    assert distance(copied, runs / "whole/ddgan") < 1e-5


@pytest.mark.slow
@METHODS
def test_grids_and_the_saved_pipeline_are_those_of_whole_networks(runs: Path, method: str) -> None:
    both = [runs / name / method for name in ("parts", "whole")]
    for file in ("step-0000010.png", "step-0000010-ema.png"):
        parts, whole = (np.asarray(Image.open(run / "samples" / file)) for run in both)
        assert np.abs(parts.astype(int) - whole).max() <= 1
    saved = Pipeline.from_pretrained(both[0] / "pipeline").denoiser.state_dict()
    average = load_file(both[0] / "checkpoints/step-0000010/ema/denoiser.safetensors")
    assert saved.keys() == average.keys() and all(saved[name].equal(average[name]) for name in saved)


@pytest.mark.slow
@METHODS
def test_a_process_holds_half_of_all_and_begins_with_the_same_weights(runs: Path, method: str) -> None:
    first, second = (json.loads((runs / f"{method}-{rank}.json").read_text()) for rank in (0, 1))
    assert first["here"] + second["here"] == first["all"]
    assert first["here"] == pytest.approx(first["all"] / 2, rel=0.02)
    assert first["alike"]


@pytest.fixture
def group() -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    yield
    torch.distributed.destroy_process_group()


def built(tmp_path: Path, text: str, *options: str) -> Built:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    recipe = resolve(read_layers(path, ['run.sharding="fsdp"', *options]), plugins.load().registry)
    with Processes("cpu") as processes:
        return build(recipe, processes.device, Sharded(processes))


@pytest.mark.parametrize("option", ["compile", "channels_last"])
def test_what_does_not_go_with_parts_is_refused(group: None, tmp_path: Path, option: str) -> None:
    with pytest.raises(
        RecipeError, match=f"networks.denoiser.* {option} = true does not go with run.sharding"
    ):
        built(tmp_path, TINY_DDPM, f"networks.denoiser.{option}=true")


def test_an_objective_that_needs_whole_networks_is_refused(group: None, tmp_path: Path) -> None:
    selective = TINY_DDPM.replace('"denoising"', '"iwdiff"\nk = 2\nscale = "sum"\nselective = true')
    with pytest.raises(RecipeError, match="selective = true does not go with run.sharding"):
        built(tmp_path, selective)


def test_a_network_that_torch_cannot_cut_is_refused_by_name(group: None) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    with (
        Processes("cpu") as processes,
        pytest.raises(RunError, match="Scaled cannot lie in parts: .* scalar"),
    ):
        Sharded(processes).placed(Scaled())
