"""Plugins are loaded one by one; a broken one is reported and takes nothing else down."""

import importlib
import sys

import pytest
from installed_plugins import GOOD, installer

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
