"""A plugin from outside brings every part of a method: it trains, samples, is scored like ours."""

import ast
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from small_runs import finished
from stranger_conformance import RECIPE

from toolkit.cli import main

HERE = Path(__file__).parent
MODULES = {"__init__.py": HERE / "stranger_plugin.py", "conformance.py": HERE / "stranger_conformance.py"}
METADATA = """Metadata-Version: 2.1
Name: toolkit-stranger
Version: 0.7
Requires-Dist: diffusion-toolkit>=0.1,<0.2
"""
REGISTERED = {
    "NoiseSchedule": "stranger_sigmoid",
    "Sampler": "stranger_two_step",
    "TimestepSampler": "stranger_spread",
    "DenoisingLoss": "stranger_huber",
    "Module": "stranger_uncertainty",
    "Objective": "stranger_weighed",
    "DataSource": "stranger_shapes",
    "Metric": "stranger_brightness",
}
# Not in the kit's recipe: evenly spread draws depend on how many rows there are, so that the two halves of a
# batch are not as the whole (check_micro_batches).
SPREAD = 'objective.timesteps={type="stranger_spread", memory=0.5}'
SIZES = ("run.batch_size=8", "run.micro_batch_size=4", "run.log_every=1", SPREAD)


@pytest.fixture(scope="module", autouse=True)
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package as pip would install it."""
    site = tmp_path_factory.mktemp("site")
    package, info = site / "toolkit_stranger", site / "toolkit_stranger-0.7.dist-info"
    package.mkdir()
    for name, source in MODULES.items():
        (package / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text("[toolkit]\nstranger = toolkit_stranger\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(site)
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolkit_stranger"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "stranger.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(stranger: None, recipe: Path) -> Path:
    """A run of six steps without a stop, by the core and the stranger alone."""
    folder = recipe.parent / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TOOLKIT_PLUGINS", "stranger")
        finished(recipe, *SIZES, "run.steps=6", f"run.out={folder}")
    return folder


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: path.stem)
def test_it_takes_nothing_of_the_toolkit_but_its_public_names(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert "toolkit" in imported and imported <= {"math", "toolkit", "torch", "pydantic", "typing"}


def test_both_networks_and_its_timesteps_learn(run: Path) -> None:
    last = run / "checkpoints" / "step-0000006"
    objective, uncertainty = (
        load_file(last / f"{name}.safetensors") for name in ("objective", "networks/uncertainty")
    )
    running, bias = objective["timesteps.running"], uncertainty["layers.2.bias"]
    assert running.shape == (20,) and (running < 1).sum() >= 10  # losses of this c are far below 1
    assert bias.abs().item() > 1e-3  # it starts at 0


def test_sample_draws_a_grid_by_its_sampler(run: Path) -> None:
    said = call("sample", run, "--num", 4, "--device", "cpu")
    assert "4 samples, 5 network calls each" in said
    with Image.open("samples.png") as grid:
        assert len(grid.convert("L").getcolors()) > 8
    assert "3 network calls" in call("sample", run, "--num", 1, "--steps", 3, "--out", "fewer.png")


def test_evaluate_scores_by_its_metric_what_its_data_hold_out(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    call("evaluate", run, "--metrics", "stranger_brightness", "--num", 16, "--device", "cpu", "--out", out)
    (path,) = out.glob("*.json")
    score = json.loads(path.read_text())
    from toolkit_stranger import RingsAndBlobs

    real = RingsAndBlobs(num=128).held_out().read(torch.arange(32))[0].double().mean().item()
    values = score["values"]
    assert values["brightness_distance"] == pytest.approx(abs(values["brightness"] - real))
    assert score["protocol"]["real"]["data"]["type"] == "stranger_shapes"
    assert score["sampling"]["sampler"]["type"] == "stranger_two_step"


def test_plugins_lists_it_and_the_doctor_finds_nothing_wrong_with_it() -> None:
    (listed,) = [plugin for plugin in json.loads(call("plugins", "--json")) if plugin["name"] == "stranger"]
    assert (listed["distribution"], listed["version"], listed["error"]) == ("toolkit-stranger", "0.7", None)
    assert {component["kind"]: component["name"] for component in listed["components"]} == REGISTERED
    assert re.search(r"stranger\s+toolkit-stranger\s+0\.7", call("plugins"))
    said = CliRunner().invoke(main, ["plugins", "doctor"]).output
    rest = said.partition("ok stranger (toolkit-stranger 0.7")[2]
    own = list(itertools.takewhile(lambda line: line.startswith(" "), rest.splitlines()[1:]))
    assert own == [f"     {kind}: {name}" for kind, name in REGISTERED.items()]  # and no fault


@pytest.mark.slow
def test_all_its_components_pass_the_conformance_kit() -> None:
    said = call("plugin", "test", "stranger", "-v")
    checked = set(re.findall(r"^passed: \w+ (\w+), check_", said, re.MULTILINE))
    assert checked == set(REGISTERED.values())
