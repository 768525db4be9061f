"""`toolkit plugins doctor` says what is wrong with a plugin, and what to try."""

import pytest
from click.testing import CliRunner
from installed_plugins import GOOD, installer

from toolkit.cli import main
from toolkit.registry.discover import compatible

OURS = f"diffusion-toolkit{compatible()}"
WHOLE = GOOD.format(name="Whole", trick="whole")


@pytest.fixture
def install(tmp_path, monkeypatch):
    return installer(tmp_path, monkeypatch)


@pytest.fixture
def doctor():
    """What the doctor says, with the exit code, of the one plugin that a test has installed."""

    def examine(plugin):
        result = CliRunner().invoke(main, ["--plugins", plugin, "plugins", "doctor"])
        return " ".join(result.output.split()), result.exit_code

    return examine


def test_all_first_party_plugins_are_well():
    result = CliRunner().invoke(main, ["plugins", "doctor"])
    assert result.exit_code == 0, result.output
    ddpm = "     Module: ddpm_mlp, dilated_conv\n     Sampler: clamped_ancestral\n"
    assert f"ok ddpm (diffusion-toolkit 0.1.0)\n{ddpm}" in result.output
    assert "ok author (diffusion-toolkit 0.1.0)\n     commands: plugin, plugins doctor\n" in result.output
    assert result.output.endswith("\nall is well\n")


def test_a_whole_plugin_is_well_and_its_components_and_observers_are_named(install, doctor):
    watching = "    @toolkit.hookimpl\n    def toolkit_step_done(step): ...\n"
    install("whole", WHOLE + watching, requires=(OURS,))
    said, code = doctor("whole")
    assert "ok whole (whole 1.0) Trick: whole observes: toolkit_step_done switched off:" in said
    assert code == 0


@pytest.mark.parametrize(
    ("source", "complaint", "remedy"),
    [
        (
            "x = 1\nimport absent",
            "No module named 'absent' (at {file}:2)",
            "install what has the module 'absent'",
        ),
        ("from toolkit import Objectiv", "cannot import name 'Objectiv'", "Did you mean 'Objective'?"),
        (
            "\nx = = 1",
            "SyntaxError: invalid syntax",
            "correct {file}:2, or go without it: pip uninstall sick",
        ),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero (at {file}:3)", "correct {file}:3"),
        ("import json\njson.loads('')", "JSONDecodeError: Expecting value", "correct {file}:2"),
        ("def toolkit_components(registry): ...", "it registers nothing", "with @toolkit.hookimpl"),
    ],
)
def test_what_keeps_a_plugin_from_being_used(install, doctor, tmp_path, source, complaint, remedy):
    install("sick", source, requires=(OURS,))
    file = tmp_path / f"module_of_sick_{tmp_path.name}.py"
    said, code = doctor("sick")
    assert code == 1
    assert said.endswith("look at: sick")
    assert complaint.format(file=file) in said
    assert (
        f"try: {remedy.format(file=file)}" in said or remedy.format(file=file) in said.partition("try: ")[2]
    )


def test_an_entry_point_that_leads_nowhere(install, doctor, tmp_path):
    install("gone", "", requires=(OURS,))
    (tmp_path / f"module_of_gone_{tmp_path.name}.py").unlink()
    assert "try: pip install --force-reinstall --no-deps gone" in doctor("gone")[0]


@pytest.mark.parametrize(
    ("requires", "complaint", "remedy"),
    [
        ((), "whole does not require diffusion-toolkit, so", f'write "{OURS}" into the dependencies'),
        (
            ("diffusion-toolkit>=0.1",),
            "requires diffusion-toolkit>=0.1 without an upper bound",
            f'write "{OURS}"',
        ),
        (("Diffusion_Toolkit>=9,<10",), "Diffusion_Toolkit<10,>=9, but 0.1.0 is installed", "pip install"),
        (
            (OURS, "absent-thing>=2"),
            "absent-thing>=2, which is not installed",
            "pip install 'absent-thing>=2'",
        ),
        (
            (OURS, "click>=99"),
            "requires click>=99, but ",
            "pip install 'click>=99', or pip install --upgrade whole",
        ),
        (
            (OURS, "not a requirement"),
            "'not a requirement', which cannot be read as a requirement",
            "correct the dependencies",
        ),
    ],
)
def test_what_is_wrong_with_requirements(install, doctor, requires, complaint, remedy):
    install("whole", WHOLE, requires=requires)
    said, code = doctor("whole")
    assert code == 1
    assert complaint in said
    assert remedy in said.partition("try: ")[2]


def test_requirements_of_extras_and_of_other_systems_may_be_absent(install, doctor):
    install("whole", WHOLE, requires=(OURS, 'absent; extra == "dev"', 'absent; sys_platform == "amiga"'))
    assert doctor("whole")[1] == 0


def test_a_clash_names_both_owners_and_how_to_have_either(install, doctor):
    install("first", WHOLE, requires=(OURS,))
    install("second", WHOLE, requires=(OURS,))
    said, code = doctor("first,second")
    clash = (
        "the name was added more than once, by plugin 'first' (first 1.0) and by plugin 'second' (second 1.0)"
    )
    assert said.count(f"'whole' cannot be used: {clash}") == 2
    assert "try: rename one, or load one of them: --plugins first or --plugins second" in said
    assert said.endswith("look at: first, second")
    assert (doctor("first")[1], doctor("second")[1], code) == (0, 0, 1)


def test_a_refused_signature_names_the_component_and_where_it_is(install, doctor, tmp_path):
    bad = "        class Bad(Trick):\n            def __init__(self, untyped): ...\n"
    install("mixed", GOOD.format(name="M", trick="m") + bad + "        registry.add(Trick, 'bad', Bad)\n")
    said, code = doctor("mixed")
    assert "'bad' cannot be used: the parameter 'untyped' has no type" in said
    assert f"Bad in module_of_mixed_{tmp_path.name}: its signature is the schema of its table" in said
    assert code == 1


def test_two_plugins_of_one_name(install, doctor):
    install("alike_one", GOOD.format(name="One", trick="one"), plugin="alike", requires=(OURS,))
    install("alike_two", GOOD.format(name="Two", trick="two"), plugin="alike", requires=(OURS,))
    said, code = doctor("alike")
    assert "alike_two also has a plugin 'alike'" in said
    assert "try: pip uninstall alike_one, or rename the entry point" in said
    assert code == 1
