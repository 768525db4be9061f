"""For all tests: runs of small recipes, a folder for each test, and nothing asked of the network."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tiny import TINY_DDGAN, TINY_DDPM

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask the network for anything
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # bits are promised on a CPU; benchmarks/gpu.py is for GPUs
settings.register_profile("gate", derandomize=True)  # --hypothesis-profile=default searches further
settings.load_profile("gate")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core each: threads that wait for each other cost time
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


# Tests that take more than a minute, begun first: begun last, they keep one of two workers waiting.
LONGEST = ("test_quality.py", "test_processes.py", "test_study_runs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def features_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features that tests compute are not kept among the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def quick_runs() -> Iterator[None]:
    """Tiny runs without what takes half of their time and is not asked of them.

    Measures look at 16 rows: all 360 digits that are held out, in micro-batches of 4, take longer than a run.
    And nobody waits for the disk, which only a power cut would show.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.training.loop.HELD_OUT_ROWS", 16)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe, by default tiny DDPM's, and return its path."""

    def write_recipe(text: str = TINY_DDPM, name: str = "tiny.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_recipe


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs of the tiny recipes, `ddpm` and `ddgan`; tests copy what they change."""
    from click.testing import CliRunner

    from toolkit.cli import main

    folder = tmp_path_factory.mktemp("runs")
    for name, text in (("ddpm", TINY_DDPM), ("ddgan", TINY_DDGAN)):
        recipe = folder / f"{name}.toml"
        recipe.write_text(text)
        done = CliRunner().invoke(main, ["train", str(recipe), "--set", f"run.out={folder / name}"])
        assert done.exit_code == 0, done.output
    return folder
