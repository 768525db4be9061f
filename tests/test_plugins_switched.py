"""`--plugins` and TOOLKIT_PLUGINS: which plugins are loaded, and how what is switched off is answered."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from installed_plugins import GOOD, installer

import toolkit
from toolkit.cli import main
from toolkit.errors import PluginError
from toolkit.registry import discover as installed
from toolkit.registry import load as plugins


@pytest.fixture
def install(tmp_path, monkeypatch):
    return installer(tmp_path, monkeypatch)


def names(loaded):
    return [report.owner.name for report in loaded.reports]


def run(*arguments, **variables):
    return CliRunner().invoke(main, arguments, env=variables)


def test_the_variable_says_which_plugins_are_loaded(monkeypatch):
    monkeypatch.setenv("TOOLKIT_PLUGINS", "gan, ddpm")
    loaded = plugins.load()
    assert names(loaded) == ["toolkit", "ddpm", "gan"]
    assert "ddgan" in [owner.name for owner in loaded.switched_off]


def test_none_leaves_the_core_and_an_empty_variable_everything(monkeypatch):
    everything = ["toolkit", *(plugin.owner.name for plugin in installed.discover())]
    assert "ddpm" in everything
    monkeypatch.setenv("TOOLKIT_PLUGINS", "none")
    loaded = plugins.load()
    assert names(loaded) == ["toolkit"]
    assert [owner.name for owner in loaded.switched_off] == everything[1:]
    monkeypatch.setenv("TOOLKIT_PLUGINS", "")
    loaded = plugins.load()
    assert names(loaded) == everything
    assert loaded.switched_off == ()


def test_a_plugin_that_is_switched_off_is_not_imported(install, monkeypatch):
    install("quiet", "import sys\nsys.quiet_was_imported = True")
    monkeypatch.setenv("TOOLKIT_PLUGINS", "ddpm")
    plugins.load()
    assert not hasattr(sys, "quiet_was_imported")


def test_the_option_wins_over_the_variable_and_ends_with_the_command(monkeypatch):
    monkeypatch.setenv("TOOLKIT_PLUGINS", "gan")
    off = [plugin.owner.name for plugin in installed.discover() if plugin.owner.name != "ddpm"]
    said = " ".join(run("--plugins", "ddpm", "plugins").stdout.split())
    assert f"switched off: {', '.join(off)}" in said
    assert os.environ["TOOLKIT_PLUGINS"] == "gan"
    monkeypatch.delenv("TOOLKIT_PLUGINS")
    assert run("--plugins", "none", "recipes").exit_code == 0
    assert "TOOLKIT_PLUGINS" not in os.environ


@pytest.mark.slow
def test_the_option_reaches_processes_that_a_verb_starts(monkeypatch):
    import click

    @click.command()
    def child():
        code = "from toolkit.registry import load as plugins; print(len(plugins.load().reports))"
        click.echo(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)

    monkeypatch.setitem(main.commands, "child", child)
    assert run("--plugins", "none", "child").stdout.strip() == "1"


@pytest.mark.parametrize("verb", [["recipes"], ["plugins"], ["train", "quickstart"]])
def test_an_unknown_name_is_answered_with_the_nearest(verb):
    result = run("--plugins", "gan,iwdif", *verb)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: --plugins or TOOLKIT_PLUGINS: plugin 'iwdif' is not installed. Did you mean 'iwdiff'?\n"
    )


def test_a_component_of_a_plugin_that_is_switched_off_is_answered_as_such():
    result = run("--plugins", "gan", "recipe", "show", "quickstart", "--set", "objective.type=classifier")
    assert result.exit_code == 2
    off = [plugin.owner.name for plugin in installed.discover() if plugin.owner.name != "gan"]
    assert (
        "[objective] type 'classifier' is not installed: the plugin 'classifier' is switched off.\n"
    ) in result.stderr
    result = run("--plugins", "gan", "recipe", "show", "quickstart", "--set", "objective.type=perturbed")
    assert (
        "[objective] type 'perturbed' is not installed. Installed: 'denoising', 'gan', 'progressive_gan'. "
        f"Switched off: {', '.join(off)}.\n"
    ) in result.stderr


def test_a_name_that_nobody_has_is_answered_as_ever():
    result = run("--plugins", "gan", "recipe", "show", "quickstart", "--set", "objective.type=gam")
    assert "type 'gam' is not installed. Did you mean 'gan'?" in result.stderr


def test_recipes_of_a_plugin_that_is_switched_off_are_not_listed_and_answered_as_such(tmp_path, monkeypatch):
    package = tmp_path / "toolkit_extra"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "recipes" / "extra_digits.toml").write_text("# Digits, but more.\n")
    info = tmp_path / "toolkit_extra-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit-extra\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[toolkit]\nextra = toolkit_extra\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "extra_digits" in run("recipes").stdout
    assert "extra_digits" not in run("--plugins", "none", "recipes").stdout
    assert run("--plugins", "none", "train", "extra_digits").stderr == (
        "error: recipe 'extra_digits' belongs to plugin 'extra', which is switched off.\n"
    )


def test_a_saved_pipeline_names_the_plugin_that_is_switched_off(runs, monkeypatch):
    monkeypatch.setenv("TOOLKIT_PLUGINS", "ddpm")
    with pytest.raises(
        PluginError, match="needs plugin 'ddgan' of diffusion-toolkit.*, which is switched off"
    ):
        toolkit.load(runs / "ddgan")


def test_a_name_that_two_distributions_have_switches_both_on(install, monkeypatch):
    install("alike_one", GOOD.format(name="One", trick="one"), plugin="alike")
    install("alike_two", GOOD.format(name="Two", trick="two"), plugin="alike")
    monkeypatch.setenv("TOOLKIT_PLUGINS", "alike")
    assert [plugin.owner.distribution for plugin in installed.switched()[0]] == ["alike_one", "alike_two"]
