"""The documentation: the tutorial runs, links lead somewhere, and every component has its page."""

import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

import toolkit
from toolkit.cli import main
from toolkit.recipe.writer import write_value
from toolkit.registry import load as plugins

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("howto/*.md"))]
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


def block(language: str, contains: str) -> str:
    """The fenced block of the tutorial that has this in it."""
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL) if contains in b)


def run(command: str) -> Result:
    """A line of the tutorial that begins with `toolkit`."""
    verb, *arguments = command.split("  #")[0].split()
    assert verb == "toolkit"
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What somebody has who followed the tutorial as far as the recipe; pip is played by two files."""
    site = tmp_path / "site"
    metadata = site / "toolkit_minsnr-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "toolkit_minsnr.py").write_text(block("python", "class MinSNR"))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-minsnr\nVersion: 0.1.0\n")
    entry = re.search(r'^(minsnr = )"(.*)"$', block("toml", "entry-points"), re.MULTILINE)
    assert entry is not None
    (metadata / "entry_points.txt").write_text(f"[toolkit]\n{entry[1]}{entry[2]}\n")
    monkeypatch.syspath_prepend(site)
    (tmp_path / "minsnr.toml").write_text(block("toml", "min_snr"))
    yield tmp_path
    sys.modules.pop("toolkit_minsnr", None)


def test_the_tutorial_trains_samples_and_loads_as_it_stands(follower: Path) -> None:
    for command in block("bash", "toolkit train").splitlines():
        done = run(command)
        assert done.exit_code == 0, done.output
    assert (follower / "digits.png").is_file()
    found: dict[str, object] = {}
    exec(block("python", "toolkit.load"), found)
    assert [image.size for image in found["images"]] == [(8, 8)] * 4  # type: ignore[attr-defined]


def test_the_slip_in_the_tutorial_is_answered_as_it_says(follower: Path) -> None:
    command, *answer = block("console", "$ toolkit").splitlines()
    done = run(command.removeprefix("$ "))
    assert done.exit_code == 2 and done.output.splitlines() == answer


def test_the_tutorials_method_has_no_more_than_60_lines() -> None:
    assert len(block("python", "class MinSNR").splitlines()) <= 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_documentation_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("../reference/"):  # outside, or generated
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), f"{page.name} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference.py, which conf.py imports too."""
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_component_has_a_page_with_every_option(reference: ModuleType, tmp_path: Path) -> None:
    reference.write_reference(tmp_path / "reference")
    registry = plugins.load().registry
    index = (tmp_path / "reference" / "index.md").read_text()
    for kind in registry.kinds():
        for name, component in registry.components(kind).items():
            page = (tmp_path / "reference" / kind.__name__ / f"{name}.md").read_text()
            assert f"]({kind.__name__}/{name}.md)" in index
            assert page.startswith(f"# {name}\n") and component.factory.__module__ in page
            for option in component.options:
                row = next(line for line in page.splitlines() if line.startswith(f"| `{option.name}` |"))
                default = "required" if option.required else write_value(option.default)
                assert default[:390].replace("|", "\\|") in row, (name, option.name)


def test_every_public_class_and_function_is_in_the_reference(reference: ModuleType) -> None:
    page = reference.python_page()
    for name in toolkit.__all__:
        if inspect.isclass(getattr(toolkit, name)) or inspect.isroutine(getattr(toolkit, name)):
            assert f"\n## {name}\n" in page


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """From a copy: what is generated does not stay in the checkout."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("reference", "_build"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", "html"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "reference" / "index.html").is_file()
