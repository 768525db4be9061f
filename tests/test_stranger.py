"""docs/plugins.md is true: the plugin that it shows, installed from outside, trains by its recipe."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.recipe import read_layers, resolve
from toolkit.registry import load as plugins
from toolkit.training.loop import train

DOCS = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")


def block(language: str, contains: str) -> str:
    """The fenced block of the page that has this in it."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL) if contains in b)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin as pip would install it: a package, and metadata with an entry point."""
    site = tmp_path / "site"
    (site / "toolkit_mine").mkdir(parents=True)
    (site / "toolkit_mine" / "__init__.py").write_text(block("python", "class Huber"))
    metadata = site / "toolkit_mine-0.3.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-mine\nVersion: 0.3\n")
    entry = re.search(r"^mine = \"(.*)\"$", block("toml", "entry-points"), re.MULTILINE)
    assert entry is not None
    (metadata / "entry_points.txt").write_text(f"[toolkit]\nmine = {entry[1]}\n")
    monkeypatch.syspath_prepend(site)
    yield tmp_path
    sys.modules.pop("toolkit_mine", None)


def test_a_plugin_from_outside_trains_by_a_recipe_that_names_it(stranger: Path) -> None:
    (stranger / "huber.toml").write_text(block("toml", '"huber"'))
    loaded = plugins.load()
    stated = ["run.steps=2", "run.log_every=1", "samples.num=0"]
    outcome = train(resolve(read_layers(stranger / "huber.toml", stated), loaded.registry), loaded)
    assert outcome.step == 2 and (outcome.folder / "pipeline" / "pipeline.json").is_file()
    assert "toolkit-mine 0.3" in (outcome.folder / "environment.json").read_text()


def test_its_options_limits_and_descriptions_are_listed(stranger: Path) -> None:
    out = CliRunner().invoke(main, ["plugins"]).output
    assert re.search(r"mine\s+toolkit-mine\s+0\.3", out)
    assert "delta = 1.0" in out


def test_a_mistake_in_its_options_is_answered_like_any_other(stranger: Path) -> None:
    (stranger / "huber.toml").write_text(block("toml", '"huber"').replace("delta", "dleta"))
    result = CliRunner().invoke(main, ["recipe", "show", "huber.toml"])
    assert result.exit_code == 2
    assert (
        "huber.toml:5: [objective.loss] 'huber' has no option 'dleta'. Did you mean 'delta'?" in result.output
    )
