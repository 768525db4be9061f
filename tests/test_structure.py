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
from toolkit.registry import hookspecs

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "toolkit").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/toolkit_*"))
PLUGIN_FILES = sorted(path for plugin in PLUGINS for path in plugin.rglob("*.py"))

KERNEL = ("diffusion", "devices", "training", "pipeline", "recipe", "registry", "runs", "data")
LEAVES = ("sources", "hf", "evaluation", "testing", "cli")  # each may import those before it
FACADES = (
    "__init__.py",
    "__main__.py",
    "api.py",
    "commands.py",
    "python.py",
)  # they stand on top, and name what is public
PUBLIC = ("toolkit", "toolkit.commands", "toolkit.testing")

# Where in the toolkit a package may be imported at all: a room or a file; "function" inside functions only.
ALLOWED = {
    "accelerate": {"devices/processes.py": "function"},
    "torch.distributed": {"devices/processes.py": "module", "devices/sharding.py": "module"},
    "rich": {"console.py": "module", "cli": "function"},
    "pluggy": {"registry/load.py": "module", "registry/hookspecs.py": "module"},
    "diffusers": {"hf": "function"},
    "matplotlib": {},
    "jinja2": {},
}
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
        assert not module.startswith("toolkit_"), f"{path} imports the plugin {module}"
        for package, places in ALLOWED.items():
            if where != "typing" and f"{module}.".startswith(f"{package}."):
                room = relative(path).partition("/")[0]
                allowed = places.get(relative(path)) or places.get(room)
                assert allowed in ("module", where), f"{path} imports {module} ({where})"


def edges(path: Path) -> set[str]:
    """The files of the toolkit that a file imports, inside functions and for typing too."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "toolkit":
                found |= {file for file in (file_of(name),) if file}
    return found - {relative(path)}


def file_of(name: str) -> str | None:
    """The file that has a dotted name, or the module in which it is."""
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        place = ROOT / "toolkit" / "/".join(parts[:length])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return relative(file)
    return None


GRAPH = {relative(path): edges(path) for path in CORE}


def below(start: str) -> set[str]:
    """Every file that is imported by way of another."""
    seen: set[str] = set()
    waiting = [*GRAPH[start]]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += GRAPH[file]
    return seen


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert [file for file in GRAPH if file in below(file)] == []


@pytest.mark.parametrize("file", GRAPH)
def test_the_kernel_imports_no_leaf_and_leaves_only_those_below_them(file: str) -> None:
    room = file.partition("/")[0]
    if file in FACADES:
        return
    forbidden = LEAVES[LEAVES.index(room) + 1 :] if room in LEAVES else LEAVES
    for imported in GRAPH[file]:
        assert imported not in FACADES, f"{file} imports the public names of {imported}"
        assert imported.partition("/")[0] not in forbidden, f"{file} imports {imported}"


def test_rooms_are_known_and_hold_at_most_sixteen_files() -> None:
    rooms = {
        path.parent.name: list(path.parent.glob("*.py")) for path in CORE if path.parent.name != "toolkit"
    }
    assert set(rooms) == {*KERNEL, *LEAVES}
    for folder in (ROOT / "toolkit", *(ROOT / "toolkit" / room for room in rooms)):
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= 16, f"{folder} has {len(files)} files"


@pytest.mark.parametrize("path", [*CORE, *PLUGIN_FILES], ids=str)
def test_every_file_says_what_its_subject_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


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
        public = module in PUBLIC or module.startswith("toolkit.testing.")
        assert package != "toolkit" or public, f"{module} is private: import from toolkit"


@pytest.mark.parametrize("path", [*CORE, *PLUGIN_FILES], ids=str)
def test_all_that_is_printed_passes_the_console(path: Path) -> None:
    """It escapes control characters in names."""
    if path == ROOT / "toolkit" / "console.py":
        return
    calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    unescaped = {"print", "click.echo", "Console", "sys.stdout.write", "sys.stderr.write"} & set(calls)
    assert unescaped <= ({"click.echo"} if path == ROOT / "toolkit" / "cli" / "__init__.py" else set())


def test_every_plugin_folder_is_packaged_and_has_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    entries = project["project"]["entry-points"]["toolkit"]
    assert packages == {"toolkit", *(path.relative_to(ROOT).as_posix() for path in PLUGINS)}
    assert set(entries.values()) == {path.name for path in PLUGINS}


def test_public_names_can_be_had_and_no_others() -> None:
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
