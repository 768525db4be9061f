"""The verbs about plugins and recipes, as a user meets them."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from jsonschema import Draft7Validator

from toolkit.cli import main
from toolkit.recipe.packaged import Packaged
from toolkit.registry import load as plugins


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def toolkit(*arguments, env=None):
    return CliRunner(env=env).invoke(main, arguments, catch_exceptions=False)


def test_help_lists_every_verb_quickly_and_without_torch():
    code = "import sys; from toolkit.cli import main; main(['--help'], standalone_mode=False); "
    code += "print({'torch', 'pydantic', 'rich'} & set(sys.modules))"
    start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start < 1  # 0.1 s, here of processor time
    assert done.stdout.endswith("set()\n")
    for verb in ("train", "sample", "plugins", "recipes", "recipe"):
        assert f"\n  {verb} " in done.stdout


def test_an_unknown_verb_is_answered_with_the_nearest():
    done = toolkit("tran")
    assert done.exit_code == 2
    assert "train" in done.stderr


def test_recipes_are_chosen_by_words_and_listed_with_their_cost():
    listed = toolkit("recipes", "DIGITS", "gan").output
    assert "ddgan_digits" in listed and "  quickstart" not in listed and "Cost: " in listed
    assert "no packaged recipe has 'nothing'" in toolkit("recipes", "nothing").stderr


@pytest.mark.parametrize("verb", ["train", "sample", "evaluate", "recipe", "data", "clean", "import"])
def test_a_verb_alone_is_answered_with_its_usage(verb):
    done = toolkit(verb)
    assert done.exit_code == 2 and re.search(f"Usage: .*{verb}", done.output)


def test_a_value_without_its_flag_is_answered_with_the_flag():
    done = toolkit("train", "quickstart", "run.steps=5")
    assert done.exit_code == 2 and "To set a value: --set run.steps=5" in done.stderr
    done = toolkit("train", "quickstart", "--steps", "5")
    assert done.exit_code == 2 and "To set a value of the recipe: --set SECTION.steps=..." in done.stderr


@pytest.mark.parametrize(("verb", "word", "offered"), [
    ("train", "ddgan_d", ["ddgan_digits"]), ("train", "./x", ["./x"]),
    ("sample", "ru", ["runs/one", "runs/two"]), ("evaluate", "runs/t", ["runs/two"]),
    ("clean", "elsewhere/", ["elsewhere/three"]), ("runs", "nothing", ["nothing"]),
    ("train", "runs/t", ["runs/two"]), ("report", "runs/t", ["runs/two"]),
    ("sample --sampler", "ddi", ["ddim"]), ("evaluate --metrics", "fid,prec", ["fid,precision"]),
])  # fmt: skip
def test_a_shell_completes_recipes_runs_and_components(verb, word, offered):
    for run in ("runs/one", "runs/two", "elsewhere/three"):
        Path(run).mkdir(parents=True)
        Path(run, "run.json").touch()
    shell = ShellComplete(main, {}, "toolkit", "_TOOLKIT_COMPLETE")
    assert [item.value for item in shell.get_completions(verb.split(), word)] == offered


def test_recipes_are_grouped_by_method_the_first_one_first_with_data_and_size():
    lines = toolkit("recipes").output.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert heads[0] == "DDPM" and {"DDGAN", "flow matching"} < set(heads)
    (row,) = [line for line in lines if line.startswith("  ddpm_cifar ")]
    assert "CIFAR-10, 3x32x32" in row and "35.7 M" in row


def test_the_purpose_of_a_recipe_is_its_whole_first_sentence(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text("""\
# What it is for (Ho et al. 2020), in
# words. More of it.
# Model:    A; B, 1x2x3; 4 k parameters
# Cost:     a day,
#           or two. Less on a GPU
""")
    recipe = Packaged("x", file, "toolkit")
    assert recipe.purpose == "What it is for (Ho et al. 2020), in words."
    assert recipe.model == ("A", "B, 1x2x3", "4 k") and recipe.said("Cost") == "a day, or two."
    file.write_text("# Run: x\n")
    assert recipe.purpose == "" and recipe.model == ("", "", "")


def test_recipes_as_json_say_where_their_files_are():
    found = json.loads(toolkit("recipes", "flow_digits", "rectified", "--json").stdout)
    assert [one["recipe"] for one in found] == ["flow_digits"]
    assert Path(found[0]["path"]).name == "flow_digits.toml" and found[0]["plugins"] == "flow"


def test_recipes_are_listed_with_their_purpose():
    done = toolkit("recipes")
    assert done.exit_code == 0
    assert "quickstart" in done.stdout
    assert "DDPM on scikit-learn's 8x8 digits" in done.stdout


def test_show_prints_a_recipe_that_shows_as_itself():
    done = toolkit("recipe", "show", "quickstart", "--set", "run.steps=7")
    assert done.exit_code == 0
    Path("shown.toml").write_text(done.stdout)
    assert toolkit("recipe", "show", "shown.toml").stdout == done.stdout
    assert "steps = 7\n" in done.stdout


def test_show_tells_origins():
    done = toolkit("recipe", "show", "quickstart", "--origin", "--set", "run.steps=7")
    assert "steps = 7  # --set run.steps=7\n" in done.stdout
    assert "# default\n" in done.stdout
    assert "quickstart.toml:" in done.stdout


def test_a_users_mistakes_are_printed_one_a_line_with_exit_code_two():
    done = toolkit("recipe", "show", "quickstart", "--set", "run.stps=7", "--set", "run.seed=-1")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: --set run.stps=7: [run] the table has no option 'stps'. Did you mean 'steps'?",
        "error: --set run.seed=-1: [run] 'seed' must be a whole number of at least 0, not -1",
    ]


def test_a_syntax_error_is_answered_before_plugins_are_loaded(monkeypatch):
    monkeypatch.setattr(plugins, "load", None)
    Path("x.toml").write_text("a = \n")
    done = toolkit("recipe", "show", "x.toml")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: x.toml:1: ")


def test_a_missing_file_is_told():
    done = toolkit("recipe", "check", "x.toml")
    assert done.exit_code == 2
    assert done.stderr == "error: x.toml does not exist.\n"


def test_what_a_changed_type_drops_is_noted():
    Path("x.toml").write_text("extends = 'quickstart'\n[schedule]\ntype = 'betas'\nbetas = [0.1]\n")
    done = toolkit("recipe", "show", "x.toml")
    assert "note: x.toml:3: [schedule] type 'linear' became 'betas', which drops" in done.stderr


def test_plugins_are_listed_with_components_and_options():
    done = toolkit("plugins")
    assert done.exit_code == 0
    assert "ddgan" in done.stdout
    assert "num_train_timesteps    a whole number" in done.stdout


def test_plugins_as_json_give_every_option():
    listed = {plugin["name"]: plugin for plugin in json.loads(toolkit("plugins", "--json").stdout)}
    assert listed["ddpm"]["distribution"] == "diffusion-toolkit"
    unet = next(c for c in listed["toolkit"]["components"] if c["name"] == "unet")
    assert unet["kind"] == "Module"
    assert {"name", "type", "required", "default", "description"} == set(unet["options"][0])


@pytest.fixture(scope="module")
def schema():
    from toolkit.recipe.schema import recipe_schema

    written = json.loads(json.dumps(recipe_schema(plugins.load().registry)))
    Draft7Validator.check_schema(written)
    return Draft7Validator(written)


def test_the_schema_accepts_every_packaged_recipe(schema):
    import tomllib

    from toolkit.recipe.packaged import packaged

    for recipe in packaged():
        assert list(schema.iter_errors(tomllib.loads(recipe.path.read_text()))) == []


@pytest.mark.parametrize(
    ("recipe", "at"),
    [
        ({"objectiv": {}}, []),
        ({"run": {"batch_size": "8"}}, ["run", "batch_size"]),
        ({"objective": {"type": "denoising", "typo": 1}}, ["objective"]),
        ({"objective": {"typo": 1}}, ["objective"]),
        ({"objective": {"type": "no"}}, ["objective", "type"]),
        (
            {"objective": {"type": "denoising", "timesteps": {"type": "uniform", "k": 1}}},
            ["objective", "timesteps"],
        ),
        ({"networks": {"denoiser": {"type": "unet", "in_channels": 3}}}, ["networks", "denoiser"]),
        ({"schedule": {"type": "linear", "beta": 3}}, ["schedule"]),
        ({"schedule": "nothing"}, ["schedule"]),
    ],
)
def test_the_schema_points_at_what_is_wrong(schema, recipe, at):
    assert at in [list(error.path) for error in schema.iter_errors(recipe)]


@pytest.mark.parametrize(
    "recipe",
    [
        {"objective": {"loss": {"type": "squared_error"}}},
        {"extends": ["quickstart"], "unset": "ema", "schedule": "none"},
        {"networks": {"denoiser": {"attention_head_dim": "none", "compile": True}}},
    ],
)
def test_the_schema_accepts_what_a_child_may_state(schema, recipe):
    assert list(schema.iter_errors(recipe)) == []


def test_the_schema_says_what_each_section_is_about(schema):
    said = {name: table["description"] for name, table in schema.schema["properties"].items()}
    assert said["data"] == "A fixed, indexable collection of examples."  # as its interface does
    assert said["networks"] == "The network of each role of the objective."  # as torch's does not
    assert all(re.fullmatch(r"[A-Z].{20,}", text) for text in said.values())


def test_the_schema_is_written_to_a_file():
    done = toolkit("recipe", "schema", "--out", "schema.json")
    assert done.exit_code == 0
    assert json.loads(Path("schema.json").read_text())["title"] == "Recipe"


@pytest.mark.parametrize("arguments", [["recipes"], ["--help"]])
def test_a_full_disk_is_an_error_of_one_line(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "toolkit", *arguments], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr == b"error: cannot write: No space left on device\n"


@pytest.mark.parametrize("out", ["/dev/full", "/proc/schema.json", "nowhere/schema.json", "file/schema.json"])
def test_a_schema_that_cannot_be_written_is_an_error_that_names_its_file(out):
    Path("file").write_text("")
    done = toolkit("recipe", "schema", "--out", out)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: cannot write {out}: ")
    assert len(done.output.splitlines()) == 1


def test_an_error_shows_control_characters_and_long_lines_in_short():
    done = toolkit("recipe", "show", "\x1b[31m" + "x" * 5_000)
    assert done.exit_code == 2
    assert "\\x1b[31mxxx" in done.output
    assert len(done.output) < 3_000


def test_the_home_folder_is_meant_by_a_tilde_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("home").mkdir()
    assert toolkit("recipe", "schema", "--out=~/schema.json").exit_code == 0
    assert Path("home/schema.json").is_file() and not Path("~").exists()
    sets = ("--set=run.out=~/run", "--set", 'data={type="folder", path="~/pictures"}')
    shown = toolkit("recipe", "show", "quickstart", *sets, "--set", 'networks.denoiser.init_from="~"').stdout
    for line in (
        f'out = "{tmp_path}/home/run"',
        f'path = "{tmp_path}/home/pictures"',
        f'init_from = "{tmp_path}/home"',
    ):
        assert line in shown.splitlines()
    shown = toolkit("recipe", "show", "quickstart", "--set", "run.out=~nobody-of-that-name/run").stdout
    assert f'out = "{tmp_path}/~nobody-of-that-name/run"' in shown.splitlines()
