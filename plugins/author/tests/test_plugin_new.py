"""`toolkit plugin new` writes a package that installs, passes its own tests and trains."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from toolkit import hookimpl
from toolkit.cli import main

NAME = "shiny_new"


def new(*arguments: str) -> "tuple[int, str]":
    result = CliRunner().invoke(main, ["plugin", "new", *arguments])
    return result.exit_code, result.output


def call(*command: "str | Path") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    code, said = new(NAME, "--path", str(folder))
    assert code == 0, said
    return folder / "toolkit-shiny-new"


@pytest.fixture(scope="module")
def python(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment of its own, with the plugin installed there and there only.

    What is installed here is seen from there: to install torch anew would take minutes, and .ci/run does it.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    Path(site, "here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    installed = call(*pip, package)
    if "No matching distribution found for hatchling" in installed.stdout + installed.stderr:
        pytest.skip("the build backend of the plugin, hatchling, cannot be had here")
    assert installed.returncode == 0, installed.stderr
    return python


@pytest.mark.slow
def test_its_own_tests_pass_where_it_is_installed(package: Path, python: Path) -> None:
    tested = call(python, "-m", "pytest", "-p", "no:cacheprovider", package)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.slow
def test_the_doctor_finds_it_well(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = next((python.parent.parent / "lib").glob("*/site-packages"))
    monkeypatch.syspath_prepend(site)
    examined = CliRunner().invoke(main, ["--plugins", NAME, "plugins", "doctor"])
    assert examined.exit_code == 0, examined.output
    registered = f"     Objective: {NAME}\n"
    assert f"ok shiny_new (toolkit-shiny-new 0.1.0)\n{registered}" in examined.output


@pytest.mark.slow
def test_its_recipe_trains_there_and_samples(python: Path, tmp_path: Path) -> None:
    stated = ["run.steps=3", "run.log_every=1", "samples.num=4", f"run.out={tmp_path / 'run'}"]
    train = [python, "-m", "toolkit", "train", f"{NAME}_digits"]
    trained = call(*train, *(f"--set={value}" for value in stated))
    assert trained.returncode == 0, trained.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["denoiser/loss"] for record in records if "denoiser/loss" in record]
    assert len(losses) == 3 and all(0 < loss < 2 for loss in losses)  # it starts near E noise^2 = 1, weighted
    assert list((tmp_path / "run").rglob("*.png"))


def test_every_placeholder_is_filled_and_ruff_has_nothing_to_say(package: Path) -> None:
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    left = [path for path in files if re.search(r"@\w+@", str(path) + path.read_text())]
    assert left == []
    assert {path.relative_to(package).as_posix() for path in files} == {
        "pyproject.toml", "README.md", ".gitignore", ".github/workflows/ci.yml",
        "toolkit_shiny_new/__init__.py", "toolkit_shiny_new/conformance.py", "toolkit_shiny_new/objective.py",
        "toolkit_shiny_new/recipes/shiny_new_digits.toml", "tests/test_shiny_new.py",
    }  # fmt: skip
    for check in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        ruff = call(sys.executable, "-m", "ruff", *check, package)
        assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_the_command_and_the_observer_of_its_readme_work(package: Path, runs: Path, tmp_path: Path) -> None:
    """And what is commented in pyproject.toml makes the command known."""
    text = (package / "pyproject.toml").read_text()
    entries = tomllib.loads(re.sub(r'^# (?=\[project|\w+ = ")', "", text, flags=re.MULTILINE))["project"]
    assert entries["entry-points"]["toolkit.commands"] == {NAME: f"toolkit_{NAME}.commands:{NAME}"}
    command, observer = re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"Path": Path, "hookimpl": hookimpl}
    exec(command + observer, names)
    done = CliRunner().invoke(names[NAME], [str(runs / "ddpm")])
    assert done.exit_code == 0 and "4 steps" in done.output
    names["toolkit_pipeline_saved"](tmp_path / "pipeline", tmp_path)
    assert (tmp_path / f"{NAME}.txt").is_file()


def test_what_to_do_next_is_said(tmp_path: Path) -> None:
    code, said = new("bright", "--path", "some where")
    assert code == 0
    assert "pip install -e 'some where/toolkit-bright[dev]'" in said
    assert "toolkit train bright_digits" in said


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("MyPlugin", "must be in lower_snake_case, not 'MyPlugin'. Did you mean 'my_plugin'?"),
        ("my-plugin", "Did you mean 'my_plugin'?"),
        ("toolkit_fast", "starts with the prefix that the package gets anyway. Did you mean 'fast'?"),
        ("2fast", "Did you mean 'fast'?"),
        ("été!", "must be in lower_snake_case"),
        ("_", "must be in lower_snake_case, not '_'."),
        ("../up", "Did you mean 'up'?"),
        ("a\nb", "must be in lower_snake_case, not 'a\\nb'"),
        ("class", "'class' is reserved"),
        ("none", "'none' is reserved"),
        ("toolkit", "'toolkit' is reserved"),
        ("ddpm", "the name is taken by plugin 'ddpm' (diffusion-toolkit 0.1.0)"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, complaint: str) -> None:
    code, said = new(name)
    assert code == 2
    assert said.startswith("error: ") and complaint in said
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_no_plugin_has_its_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toolkit_quiet.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert new("quiet") == (2, "error: there is a package toolkit_quiet already: choose another name\n")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    kept = tmp_path / "toolkit-bright" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert new("bright") == (2, "error: toolkit-bright exists already, and nothing is overwritten\n")
    assert [path.name for path in kept.parent.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_answered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = new("bright", "--path", "file/inside")
    assert (code, said) == (2, "error: file/inside/toolkit-bright cannot be written: Not a directory\n")
