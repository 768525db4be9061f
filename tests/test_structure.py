"""The rules that keep the core free of methods, and plugins on the public interface."""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit
from toolkit import hookspecs

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "toolkit").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/toolkit_*"))
PLUGIN_FILES = sorted(path for plugin in PLUGINS for path in plugin.rglob("*.py"))

# Which modules of the core may import a package at all; "function" allows it inside functions only.
ALLOWED = {
    "accelerate": {"processes.py": "module"},
    "rich": {"console.py": "module", "cli/plugin.py": "function", "cli/plugins.py": "function",
             "cli/recipes.py": "function", "cli/runs.py": "function", "cli/compare.py": "function"},
    "matplotlib": {"report/figures.py": "module", "report/plots.py": "module"},
    "jinja2": {"report/page.py": "module"},
    "pluggy": {"plugins.py": "module", "hookspecs.py": "module"},
    "diffusers": {
        "denoiser.py": "typing", "schedule.py": "function", "sampler.py": "typing", "solvers.py": "function",
        "unet.py": "function", "pipeline_folder.py": "function", "diffusers_folder.py": "function",
    },
}  # fmt: skip
METHODS = re.compile(r"ddpm_|ddgan|iwdiff|dcgan|sngan|wgan|discriminator", re.IGNORECASE)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every imported module of a file, and where: at module level, inside a function, or for typing only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    where: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        inside = where.get(node, "module")
        if isinstance(node, ast.FunctionDef):
            inside = "function"
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inside = "typing"
        for child in ast.iter_child_nodes(node):
            where[child] = inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, where.get(node, "module")) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or "", where.get(node, "module")


def relative(path: Path) -> str:
    return path.relative_to(ROOT / "toolkit").as_posix()


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_imports_no_plugin_and_heavy_packages_only_where_they_belong(path: Path) -> None:
    for module, where in imports(path):
        package = module.partition(".")[0]
        assert not package.startswith("toolkit_"), f"{path} imports the plugin {module}"
        if package in ALLOWED and where != "typing":
            allowed = ALLOWED[package].get(relative(path))
            assert allowed in ("module", where), f"{path} imports {module} ({where})"


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_names_no_method(path: Path) -> None:
    found = METHODS.search(path.read_text(encoding="utf-8"))
    assert found is None, f"{path} says {found and found[0]!r}"


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_plugin_imports_public_names_and_itself_and_no_other_plugin(path: Path) -> None:
    own = path.relative_to(ROOT / "plugins").parts[1]
    for module, _ in imports(path):
        package = module.partition(".")[0]
        assert package not in ("accelerate",) and not module.startswith("torch.distributed"), module
        assert not package.startswith("toolkit_") or package == own, module
        assert package != "toolkit" or module == "toolkit", f"{module} is private: import from toolkit"


@pytest.mark.parametrize("path", [*CORE, *PLUGIN_FILES], ids=str)
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_every_plugin_folder_is_packaged_and_has_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    entries = project["project"]["entry-points"]["toolkit"]
    assert packages == {"toolkit", *(path.relative_to(ROOT).as_posix() for path in PLUGINS)}
    assert set(entries.values()) == {path.name for path in PLUGINS}


def test_public_names_are_stated_once_and_can_be_had() -> None:
    lazily = set(toolkit._MODULE)
    assert {*toolkit.__all__} == lazily | {"API_VERSION", "__version__", "hookimpl", "load"}
    assert all(getattr(toolkit, name) is not None for name in toolkit.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        toolkit.Trainer  # noqa: B018


@pytest.mark.parametrize("name", [n for n in dir(hookspecs) if n.startswith("toolkit_")])
def test_every_hook_is_documented_with_its_arguments(name: str) -> None:
    arguments = ", ".join(inspect.signature(getattr(hookspecs, name)).parameters)
    assert f"`{name}({arguments})`" in (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_public_classes_and_functions_say_what_they_are() -> None:
    public = {name: getattr(toolkit, name) for name in toolkit.__all__}
    stated = {n: x for n, x in public.items() if inspect.isroutine(x) or inspect.isclass(x)}
    assert [name for name, thing in stated.items() if not inspect.getdoc(thing)] == []


def test_help_needs_neither_torch_nor_pydantic() -> None:
    import subprocess

    code = (
        "import sys\nfrom toolkit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'pydantic', 'diffusers', 'datasets'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "train" in out and out.strip().endswith("[]")


def test_no_public_name_is_hidden_by_a_module_of_the_same_name() -> None:
    """Importing toolkit.x puts the module over whatever `toolkit.x` was."""
    modules = {path.stem for path in (ROOT / "toolkit").iterdir()}
    assert modules & set(toolkit.__all__) == set()
