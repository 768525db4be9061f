"""The documentation: tutorials and how-tos run, links lead somewhere, and every component has its page."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from generate import reference
from generate.examples import accepted, example_of
from generate.execute import execute

import toolkit
import toolkit.api
from toolkit.cli import main
from toolkit.recipe.writer import write_value
from toolkit.registry import load as plugins

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("howto/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]  # fmt: skip
FIRST_METHOD = (DOCS / "first_method.md").read_text(encoding="utf-8")
FIRST_MODEL = (DOCS / "first_model.md").read_text(encoding="utf-8")
# How-tos in which everything runs in seconds, on the digits that come with scikit-learn.
RUNNING = [DOCS / "howto" / f"{name}.md" for name in ("sampler", "path", "conditional", "flow", "distil")]

SHORTER = {
    "train": ("--set", "run.steps=2", "--set", "samples.num=0"),
    "sample": ("--num", "3"), "evaluate": ("--num", "3"), "report": ("--samples", "2"),
}  # fmt: skip


def blocks(text: str, language: str = "[a-z]+") -> list[tuple[str, str]]:
    """The fenced blocks of a page in order, each with its language."""
    return re.findall(rf"```({language})\n(.*?)```", text, re.DOTALL)


def block(language: str, contains: str, page: str = FIRST_METHOD) -> str:
    """The fenced block of a page that has this in it."""
    return next(text for _, text in blocks(page, language) if contains in text)


def run(command: str, *more: str) -> Result:
    """A line of the documentation that begins with `toolkit`."""
    program, *arguments = command.split("  #")[0].split()
    assert program == "toolkit"
    return CliRunner().invoke(main, [*arguments, *more])


def run_shortened(command: str) -> None:
    """The same, with less to compute."""
    done = run(command, *SHORTER.get(command.split()[1], ()))
    assert done.exit_code == 0, f"{command}\n{done.output}"


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
    """What somebody has who wrote the first method as far as its recipe."""
    install(site, "toolkit_perturbed", block("python", "class InputPerturbation"))
    project = block("toml", "entry-points")
    assert '\n[project.entry-points.toolkit]\nperturbed = "toolkit_perturbed"\n' in project
    (tmp_path / "perturbed.toml").write_text(block("toml", "input_perturbation"))
    return tmp_path


@pytest.mark.slow
def test_the_first_method_trains_samples_and_loads_as_it_stands(follower: Path) -> None:
    for command in block("bash", "toolkit train").splitlines():
        done = run(command)
        assert done.exit_code == 0, done.output
    assert (follower / "digits.png").is_file()
    found: dict[str, object] = {}
    exec(block("python", "toolkit.load"), found)
    assert [image.size for image in found["images"]] == [(8, 8)] * 4  # type: ignore[attr-defined]


def test_the_slip_in_the_first_method_is_answered_as_it_says(follower: Path) -> None:
    refused_as_shown(FIRST_METHOD)


def test_the_first_method_has_no_more_than_40_lines() -> None:
    assert len(block("python", "class InputPerturbation").splitlines()) <= 40


def refused_as_shown(page: str) -> None:
    """The page's command in a console is refused in the page's words."""
    command, *answer = block("console", "$ toolkit", page).splitlines()
    done = run(command.removeprefix("$ "))
    assert done.exit_code == 2 and done.output.splitlines() == answer


@pytest.mark.slow
def test_the_first_model_is_trained_changed_evaluated_and_compared_by_its_commands(tmp_path: Path) -> None:
    (tmp_path / "fewer_calls.toml").write_text(block("toml", "# fewer_calls.toml", FIRST_MODEL))
    commands = [line for _, text in blocks(FIRST_MODEL, "bash") for line in text.splitlines()]
    assert {line.split()[1] for line in commands} >= {"train", "sample", "evaluate", "compare", "report"}
    for command in commands:
        run_shortened(command)
    assert all((tmp_path / name).is_file() for name in ("slow.png", "fast.png", "report.html"))
    refused_as_shown(FIRST_MODEL)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_a_how_to_runs_as_it_stands_but_for_the_length_of_training(
    page: Path, site: Path, tmp_path: Path
) -> None:
    """Its files are written and its plugins installed; then commands and Python, in the order of the page."""
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
                run_shortened(command)
        elif language == "python" and file_of(text) is None:
            exec(text, {})


@pytest.mark.slow
def test_the_page_on_python_prints_what_it_shows_but_for_the_numbers(tmp_path: Path) -> None:
    text = (DOCS / "howto" / "python.md").read_text(encoding="utf-8")
    shorter = text.replace('"run.steps": 400, "run.log_every": 100', '"run.steps": 4, "run.log_every": 1')
    assert shorter != text
    shorter = shorter.replace("num=100", "num=4").replace("sample(32,", "sample(4,")
    executed = execute(shorter)
    assert (tmp_path / "python_digits.png").is_file()
    shown, printed = (
        [re.sub(r"\d[\d.e-]*", "0", block) for _, block in blocks(page, "text")] for page in (text, executed)
    )
    assert shown == printed and all(shown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_documentation_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target) or re.match(r"(\.\./)?reference/", target):  # outside, or generated
            continue
        file, _, heading = target.partition("#")
        found = (page.parent / file) if file else page
        assert found.exists(), f"{page.name} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], target


def test_every_plugin_has_a_row_in_the_readme_and_every_method_a_place_in_the_gallery() -> None:
    plugins_here = {readme.parent.name for readme in ROOT.glob("plugins/*/README.md")}
    rows, shown = (
        set(re.findall(r"plugins/(\w+)/README\.md\)", page.read_text(encoding="utf-8")))
        for page in (ROOT / "README.md", DOCS / "gallery.md")
    )
    tools = {"report", "study", "hub", "export", "author"}
    assert rows == plugins_here and shown >= plugins_here - tools


def test_every_component_has_a_page_with_every_option(tmp_path: Path) -> None:
    reference.write_reference(tmp_path / "reference")
    registry = plugins.load().registry
    index = (tmp_path / "reference" / "index.md").read_text()
    for kind in registry.kinds():
        for name, component in registry.components(kind).items():
            page = (tmp_path / "reference" / f"{reference.page_of(component)}.md").read_text()
            assert f"]({reference.page_of(component)}.md)" in index
            assert page.startswith(f"# {name}\n") and component.factory.__module__ in page
            for option in component.options:
                row = next(line for line in page.splitlines() if line.startswith(f"- **`{option.name}`**,"))
                default = "required" if option.required else write_value(option.default)
                assert default[:390] in row, (name, option.name)


def test_every_component_that_a_recipe_can_name_has_an_example_that_is_accepted() -> None:
    registry = plugins.load().registry
    without = set()
    for kind in registry.kinds():
        for component in registry.components(kind).values():
            example = example_of(component, registry)
            if example is None:
                without.add(kind.__name__)
                continue
            table = tomllib.loads(example.text)
            for key in example.path:
                table = table[key]
            assert table == example.table and table["type"] == component.name
            assert accepted(example, kind, registry), (component.name, example)
    assert without == {"Metric", "FeatureExtractor", "Importer", "Layout"}


def test_every_public_class_and_function_is_in_the_reference(tmp_path: Path) -> None:
    reference.write_reference(tmp_path)
    pages = {name: (tmp_path / f"{name}.md").read_text() for name in ("python", "interfaces", "authors")}
    for name in toolkit.api.__all__:
        holders = [
            page
            for page, text in pages.items()
            if re.search(rf"^(## {name}|- `{name}`)$", text, re.MULTILINE)
        ]
        assert len(holders) == 1, (name, holders)
    assert "Pipeline(" in pages["python"] and "### Pipeline.\\_\\_call\\_\\_" in pages["python"]
    assert "nn.Module" not in pages["python"] and "state_dict" not in pages["interfaces"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """From a copy: what is generated does not stay in the checkout. The plain theme is twice as fast."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    generated = shutil.ignore_patterns("reference", "plugins", "project", "_build")
    shutil.copytree(DOCS, tmp_path / "docs", ignore=generated)
    for page in {*ROOT.glob("*.md"), *ROOT.glob("plugins/*/README.md")}:
        copy = tmp_path / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, copy)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-D", "html_theme=basic", "docs", "html"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in ("index", "gallery", "plugins/ddpm", "project/changelog", "reference/Sampler/ddim"):
        assert (tmp_path / "html" / f"{page}.html").is_file()
