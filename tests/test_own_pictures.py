"""Pictures of one's own: what `toolkit data` reports, and the recipe that `toolkit recipe new` writes."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from small_runs import finished, refused

from toolkit.cli import main
from toolkit.cli.data import proposed
from toolkit.recipe import read_recipe
from toolkit.sources.survey import survey


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Twelve pictures of two classes and two sizes, one of them grey, and one that is none."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "mine" / ("cats" if i < 8 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (40, 30) if i < 9 else (20, 20)
        pixels = rng.integers(0, 256, size if i == 3 else (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "mine" / "dogs" / "broken.png").write_text("no picture")
    (tmp_path / "mine" / "note.txt").write_text("nor this")
    return tmp_path / "mine"


def test_pictures_are_counted_before_anything_is_chosen(mine: Path) -> None:
    found = survey(str(mine))
    assert found.sizes == {(30, 40): 9, (20, 20): 3} and found.grey == 1 and found.short_side == 30
    assert found.classes == {"cats": 8, "dogs": 5} and found.number == 13
    said = call("data", str(mine), "--sheet", "sheet.png").output
    assert "sizes: 30x40 (9), 20x20 (3); shorter side 30 in the middle" in said
    assert "11 in colour, 1 greyscale" in said and "2 classes: cats (8), dogs (5)" in said
    assert "1 picture cannot be read:" in said and "broken.png" in said
    assert ".txt 1" in said  # left out
    assert Image.open("sheet.png").size == (3 * 64, 4 * 64)


def test_the_recipe_is_short_says_why_and_trains(mine: Path) -> None:
    done = call("recipe", "new", "my.toml", "--data", str(mine))
    assert done.exit_code == 0 and "toolkit train my.toml" in done.output
    text = Path("my.toml").read_text()
    assert 'extends = ["ddpm_small"]' in text and len(text.splitlines()) < 45
    steps, seconds = re.search(
        r"^steps = (\d+) +# about \d+ minutes here, at (\S+) s each", text, re.MULTILINE
    ).groups()
    assert 240 < int(steps) * float(seconds) < 360 or steps == "300"
    assert "size = 28 " not in text and "size = 28" in text  # the size that most pictures reach
    assert 'fit = "crop"                    # or "resize", "pad"' in text
    assert "channels = 3                    # 1 are greyscale" in text
    assert 'on_error = "skip"               # 1 picture cannot be read' in text
    assert "# conditional = true            # learn the classes" in text
    finished("my.toml", "run.steps=1", "run.batch_size=2", "samples.num=0")


def test_it_extends_the_recipe_that_is_named(mine: Path) -> None:
    assert call("recipe", "new", "my.toml", "--data", str(mine), "--from", "ddgan_digits").exit_code == 0
    text = Path("my.toml").read_text()
    assert "[networks" not in text and 'extends = ["ddgan_digits"]' in text
    assert read_recipe("my.toml").tables["run"]["steps"] == read_recipe("ddgan_digits").tables["run"]["steps"]


def test_a_run_or_a_file_that_it_extends_is_found_from_where_it_is_written(mine: Path) -> None:
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/run.json").write_text("{}")
    Path("runs/old/recipe.toml").write_text('extends = ["quickstart"]')
    shutil.copy("runs/old/recipe.toml", "file.toml")
    Path("below").mkdir()
    for number, parent in enumerate(("runs/old", "file.toml")):
        written = f"below/{number}.toml"
        assert call("recipe", "new", written, "--data", str(mine), "--from", parent).exit_code == 0
        assert f'extends = ["../{parent}"]' in Path(written).read_text()
        assert call("recipe", "show", written).exit_code == 0


@pytest.mark.parametrize(("arguments", "message"), [
    (("recipe", "new", "my.txt", "--data", "mine"), "my.txt: a recipe is a .toml file"),
    (("recipe", "new", "taken.toml", "--data", "mine"), "taken.toml: is already there"),
    (("recipe", "new", "my.toml", "--data", "mine", "--from", "ddpm_smal"), "Did you mean 'ddpm_small'"),
    (("recipe", "new", "my.toml", "--data", "nowhere"), "nowhere: no such folder"),
    (("data", "empty"), "empty"),
    (("data", "mine", "--sheet", "sheet.jpg"), "thumbnails are written as .png"),
    (("data", "mine", "--sheet", "taken.png"), "taken.png: is already there"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(mine: Path, arguments: tuple[str, ...], message: str) -> None:
    Path("taken.toml").touch()
    Path("taken.png").touch()
    Path("empty").mkdir()
    assert message in refused(call(*arguments))
    assert not Path("my.toml").exists() and Path("taken.toml").read_text() == ""


@pytest.mark.parametrize(("side", "size", "levels"), [
    (8, 8, 2), (20, 16, 3), (28, 28, 3), (64, 64, 4), (300, 64, 4), (5, 8, 2),
])  # fmt: skip
def test_a_size_that_the_pictures_have_and_levels_that_divide_it(side: int, size: int, levels: int) -> None:
    for accelerated in (False, True):
        plan = proposed(side, accelerated)
        assert (plan.size, len(plan.widths)) == (size, levels)
        assert plan.size % 2 ** (levels - 1) == 0
