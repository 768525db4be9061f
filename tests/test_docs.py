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
PAGES = [
    *sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("howto/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]  # fmt: skip
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
# How-tos in which everything runs in seconds, on the digits that come with scikit-learn.
RUNNING = [DOCS / "howto" / f"{name}.md" for name in ("python", "sampler", "path", "guide", "flow", "distil")]


def blocks(text: str, language: str = "[a-z]+") -> list[tuple[str, str]]:
    """The fenced blocks of a page in order, each with its language."""
    return re.findall(rf"```({language})\n(.*?)```", text, re.DOTALL)


def block(language: str, contains: str) -> str:
    """The fenced block of the tutorial that has this in it."""
    return next(text for _, text in blocks(TUTORIAL, language) if contains in text)


def run(command: str, *more: str) -> Result:
    """A line of the documentation that begins with `toolkit`."""
    verb, *arguments = command.split("  #")[0].split()
    assert verb == "toolkit"
    return CliRunner().invoke(main, [*arguments, *more])


def file_of(text: str) -> str | None:
    """The file that a block is: its first line says it, as a comment."""
    name = re.match(r"# (\w+\.(?:py|toml))\n", text)
    return name and name[1]


def install(site: Path, module: str, text: str) -> None:
    """Play pip, for a plugin `toolkit_NAME`, by two files."""
    name = module.removeprefix("toolkit_")
    metadata = site / f"{module}-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{module}.py").write_text(text)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toolkit-{name}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(f"[toolkit]\n{name} = {module}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for plugins, which are gone after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def follower(site: Path, tmp_path: Path) -> Path:
    """What somebody has who followed the tutorial as far as the recipe."""
    install(site, "toolkit_perturbed", block("python", "class InputPerturbation"))
    project = block("toml", "entry-points")
    assert '\n[project.entry-points.toolkit]\nperturbed = "toolkit_perturbed"\n' in project
    (tmp_path / "perturbed.toml").write_text(block("toml", "input_perturbation"))
    return tmp_path


@pytest.mark.slow
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


def test_the_tutorials_method_has_no_more_than_40_lines() -> None:
    assert len(block("python", "class InputPerturbation").splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_a_how_to_runs_as_it_stands_but_for_the_length_of_training(
    page: Path, site: Path, tmp_path: Path
) -> None:
    """Its files are written and its plugins installed; then commands and Python, in the order of the page."""
    short = ("--set", "run.steps=2", "--set", "samples.num=0")
    found = blocks(page.read_text(encoding="utf-8"))
    for _, text in found:
        name = file_of(text)
        if name is not None and name.endswith(".py"):
            install(site, name.removesuffix(".py"), text)
        elif name is not None:
            (tmp_path / name).write_text(text)
    for language, text in found:
        if language == "bash":
            for command in text.splitlines():
                done = run(command, *(short if " train " in command else ("--num", "3")))
                assert done.exit_code == 0, f"{command}\n{done.output}"
        elif language == "python" and file_of(text) is None:
            exec(text, {})


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


@pytest.mark.slow
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
