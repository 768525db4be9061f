"""Plugins are loaded one by one; a broken one is reported and takes nothing else down."""

import importlib
import sys

import pytest
from click.testing import CliRunner
from installed_plugins import GOOD, installer

from toolkit.cli import main
from toolkit.registry import discover as installed
from toolkit.registry import load as plugins

WATCHER = """
    import toolkit
    seen = []
    @toolkit.hookimpl
    def toolkit_step_done(step, logs):
        seen.append(step)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    return installer(tmp_path, monkeypatch)


def report(loaded, distribution):
    return next(r for r in loaded.reports if r.owner.distribution == distribution)


def trick_names(loaded):
    kind = next((kind for kind in loaded.registry.kinds() if kind.__name__ == "Trick"), None)
    return sorted(loaded.registry.components(kind)) if kind else []


def test_the_core_and_first_party_plugins_are_found_and_whole():
    loaded = plugins.load()
    assert {r.owner.name for r in loaded.reports} >= {"toolkit", "ddpm", "ddgan"}
    assert [(r.owner.name, r.error) for r in loaded.reports if r.error] == []
    assert [(c.name, c.error) for r in loaded.reports for c in r.components if c.error] == []


def test_plugins_are_discovered_without_being_imported(install):
    install("quiet", "raise RuntimeError('imported')")
    found = {plugin.owner.name: plugin.owner for plugin in installed.discover()}
    assert (found["quiet"].distribution, found["quiet"].version) == ("quiet", "1.0")


def test_two_broken_plugins_are_reported_and_a_good_one_works(install):
    install("broken_import", "import does_not_exist")
    install("broken_exit", "import sys; sys.exit(3)", version="2.0")
    install("good", GOOD.format(name="Good", trick="good"))
    loaded = plugins.load()
    assert report(loaded, "broken_import").error == "ModuleNotFoundError: No module named 'does_not_exist'"
    assert report(loaded, "broken_exit").error == "SystemExit: 3"
    assert report(loaded, "broken_exit").owner.version == "2.0"
    assert report(loaded, "good").error is None
    assert trick_names(loaded) == ["good"]


def test_a_hook_that_fails_leaves_nothing_behind(install):
    install("halfway", GOOD.format(name="Half", trick="half") + "        raise ValueError('two\\nlines')\n")
    loaded = plugins.load()
    assert report(loaded, "halfway").error == "ValueError: two lines"
    assert report(loaded, "halfway").components == ()
    assert trick_names(loaded) == []


@pytest.mark.parametrize(
    "source",
    [
        "def toolkit_component(registry): ...",
        "def toolkit_components(register): ...",
        "def toolkit_components(registry):\n    registry.add(int, 'Not Lower', int)",
    ],
)
def test_a_misspelt_hook_argument_or_name_is_reported_in_one_line(install, source):
    install("misspelt", f"import toolkit\n@toolkit.hookimpl\n{source}")
    error = report(plugins.load(), "misspelt").error
    assert error
    assert "\n" not in error


BROKEN = {  # files of a dist-info folder, each of which makes importlib.metadata raise something else
    "a value that is no module": {"entry_points.txt": b"[toolkit]\nmine = toolkit-mine\n"},
    "no value": {"entry_points.txt": b"[toolkit]\nmine =\n[toolkit.commands]\nours = \n"},
    "no assignment": {"entry_points.txt": b"[toolkit]\nmine\n"},
    "no text": {"entry_points.txt": b"[toolkit]\nmine = \xff\xfe\n"},
    "a command that is no module": {"entry_points.txt": b"[toolkit.commands]\nplugins.ours = a-b:c\n"},
    "METADATA that is no text": {"METADATA": b"\xff", "entry_points.txt": b"[toolkit]\nmine = nowhere\n"},
    "METADATA without a name": {"METADATA": b"", "entry_points.txt": b"[toolkit]\nmine = nowhere\n"},
    "METADATA with odd versions": {
        "METADATA": b"Name: mine\nVersion: x y\nRequires-Dist: torch >> 1\nRequires-Dist: ;\n",
        "entry_points.txt": b"[toolkit]\nmine = nowhere\n",
    },
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_distribution_is_reported_and_costs_no_other_anything(name, install, tmp_path):
    install("good", GOOD.format(name="Good", trick="good"))
    folder = tmp_path / "toolkit_mine-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: toolkit-mine\nVersion: 0.1\n")
    for file, content in BROKEN[name].items():
        (folder / file).write_bytes(content)
    loaded = plugins.load()
    assert trick_names(loaded) == ["good"]
    if b"toolkit]" in BROKEN[name]["entry_points.txt"]:
        assert [report.owner.name for report in loaded.reports if report.error] in (
            ["mine"],
            ["toolkit-mine"],
        )
    for arguments in (
        ["--help"],
        ["plugins"],
        ["plugins", "--help"],
        ["recipes"],
        ["recipe", "show", "quickstart"],
    ):
        assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    diagnosis = CliRunner().invoke(main, ["plugins", "doctor"], catch_exceptions=False)
    assert diagnosis.exit_code in (0, 1) and "good" in diagnosis.output


def test_an_entry_point_that_names_no_module_is_told_as_it_stands(install, tmp_path):
    install("mine", "")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text(
        "[toolkit]\nmine = toolkit-mine\n[toolkit.commands]\nours = a-b:c\nthird = module_of_mine:exit\n"
    )
    said = report(plugins.load(), "mine").error
    assert said == "its entry point 'toolkit-mine' is not the name of a module"
    done = CliRunner().invoke(main, ["ours"], catch_exceptions=False)
    assert done.exit_code == 2
    assert "its entry point 'a-b:c' is not the name of a module" in done.output


@pytest.mark.parametrize("source", ["raise SystemExit('bye')", "import sys; sys.exit(0)", "1 / 0", "x = ("])
def test_a_command_that_fails_or_exits_at_import_says_so(source, install, tmp_path):
    install("mine", source)
    entry = tmp_path / "mine-1.0.dist-info" / "entry_points.txt"
    module = entry.read_text().split("= ")[1].strip()
    entry.write_text(f"[toolkit.commands]\nours = {module}:command\n")
    done = CliRunner().invoke(main, ["ours"], catch_exceptions=False)
    assert done.exit_code == 2
    assert done.output.startswith("error: command 'ours' of plugin ")
    assert "cannot be loaded: " in done.output


@pytest.mark.parametrize("arguments", [
    ["recipe", "show", "quickstart", "--set", "objective.type=denoisin"],
    ["import", "ddgam", "x", "y"],
    ["sample", "x", "--start", "nois"],
], ids=["recipe", "import", "start"])  # fmt: skip
def test_a_plugin_that_fails_in_its_hook_is_named_before_the_nearest_name(arguments, install):
    install("halfway", GOOD.format(name="Half", trick="half") + "        raise ValueError('two')\n")
    first, second = CliRunner().invoke(main, arguments, catch_exceptions=False).output.splitlines()
    assert first == "error: plugin 'halfway' (halfway 1.0) could not be loaded: ValueError: two"
    assert "Did you mean" in second


def test_ctrl_c_at_import_is_not_contained(install):
    install("impatient", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.load()


def test_a_clash_disables_the_name_for_both_owners_and_nothing_else(install):
    clashing = GOOD.format(name="One", trick="same") + "        registry.add(Trick, '{}', One)\n"
    install("first", clashing.format("only_first"))
    install("second", clashing.format("only_second"))
    loaded = plugins.load()
    assert trick_names(loaded) == ["only_first", "only_second"]
    for distribution in ("first", "second"):
        (broken,) = [c for c in report(loaded, distribution).components if c.error]
        assert "(first 1.0)" in broken.error
        assert "(second 1.0)" in broken.error


def test_a_bad_signature_disables_that_name_only(install):
    bad = "        class Bad(Trick):\n            def __init__(self, untyped): ...\n"
    bad += "        registry.add(Trick, 'bad', Bad)\n"
    install("mixed", GOOD.format(name="Good", trick="good") + bad)
    loaded = plugins.load()
    assert report(loaded, "mixed").error is None
    assert [(c.name, c.error) for c in report(loaded, "mixed").components] == [
        ("good", None),
        ("bad", "the parameter 'untyped' has no type"),
    ]


def test_two_distributions_may_call_their_plugins_alike(install):
    install("alike_one", GOOD.format(name="One", trick="one"), plugin="alike")
    install("alike_two", GOOD.format(name="Two", trick="two"), plugin="alike")
    assert trick_names(plugins.load()) == ["one", "two"]


def test_observers_of_all_plugins_are_called(install):
    install("watcher", WATCHER)
    loaded = plugins.load()
    loaded.hook.toolkit_step_done(run=None, step=7, logs={})
    name = [name for name in sys.modules if name.startswith("module_of_watcher")][-1]
    assert importlib.import_module(name).seen == [7]


def test_every_hook_says_when_it_is_called():
    from toolkit.registry import hookspecs

    hooks = [hook for name, hook in vars(hookspecs).items() if name.startswith("toolkit_")]
    assert len(hooks) == 6
    assert all(hook.__doc__.startswith("Called ") for hook in hooks)
