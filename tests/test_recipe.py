"""Layers resolve into complete tables, or into one error that tells everything at its place."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_kinds import RECIPE, SECTIONS, Chain, NetTable, RunTable, Simple, Uniform, Weighted, registry

from toolkit.errors import RecipeError
from toolkit.recipe import Layers, Section, read_layers
from toolkit.recipe import resolve as resolve_layers
from toolkit.recipe.writer import write_toml

REGISTRY = registry()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def resolve(text, *overrides, name="x.toml"):
    Path(name).write_text(text, encoding="utf-8")
    return resolve_layers(read_layers(name, overrides), REGISTRY, SECTIONS)


def from_tables(tables, registry, sections):
    """Resolve tables that did not come from a file."""
    return resolve_layers(Layers("recipe", None, "recipe", dict(tables)), registry, sections)


def refused(text, *overrides):
    with pytest.raises(RecipeError) as error:
        resolve(text, *overrides)
    return str(error.value).splitlines()


def test_a_recipe_has_every_default_of_every_section():
    assert resolve(RECIPE).tables == {
        "run": {"batch_size": 8, "micro": None, "out": None, "names": []},
        "schedule": {"type": "even", "length": 4},
        "networks": {
            "main": {
                "type": "layered",
                "width": 3,
                "classes_of": "images",
                "timesteps": {"type": "uniform"},
                "compile": False,
            }
        },
        "method": {"type": "simple", "k": 2, "timesteps": {"type": "uniform"}, "flip": False},
        "draw": {"type": "uniform"},
    }


def test_a_resolved_recipe_is_json_and_resolves_to_itself():
    recipe = resolve(
        RECIPE, "run.out=some/folder", 'method={type = "rich", draws = [{type = "uniform"}], named = {}}'
    )
    assert json.loads(json.dumps(recipe.tables)) == recipe.tables
    assert resolve(recipe.to_toml(), name="y.toml").tables == recipe.tables
    assert from_tables(recipe.tables, REGISTRY, SECTIONS).tables == recipe.tables


def test_paths_are_absolute_and_relative_to_the_working_directory():
    Path("sub").mkdir()
    assert resolve(RECIPE, "run.out=runs/a", name="sub/x.toml").tables["run"]["out"] == str(
        Path("runs/a").absolute()
    )


def test_an_optional_section_is_left_out_if_absent_or_none():
    parts = RECIPE.split("\n\n")
    assert "schedule" not in resolve("\n\n".join(parts[:1] + parts[2:])).tables
    assert "schedule" not in resolve(RECIPE, "schedule=none").tables


def test_a_table_without_a_type_takes_the_default_one():
    assert resolve(RECIPE, "method.timesteps={}").tables["method"]["timesteps"] == {"type": "uniform"}
    assert refused(RECIPE + "[draw]\npower = 1\n") == [
        "x.toml:16: [draw] 'uniform' has no option 'power'. It has none."
    ]


def test_flags_are_text_where_the_option_is_text():
    recipe = resolve(RECIPE, "run.out=123", "networks.main.classes_of=true", "networks.main.compile=true")
    assert recipe.tables["run"]["out"] == str(Path("123").absolute())
    assert recipe.tables["networks"]["main"]["classes_of"] == "true"
    assert recipe.tables["networks"]["main"]["compile"] is True
    assert resolve(RECIPE, "run.out=2024-01-01").tables["run"]["out"].endswith("2024-01-01")


def test_problems_are_told_together_with_file_line_section_and_nearest():
    text = (
        RECIPE.replace("width", "widht").replace("k = 2", "k = 2\nflp = true\nbatch_size = 3") + "[methd]\n"
    )
    assert refused(text, "method.flip=True", "networks.main.compile=1") == [
        "x.toml:17: [methd] there is no section 'methd'. Did you mean 'method'?",
        "x.toml:10: [networks.main] 'layered' has no option 'widht'. Did you mean 'width'?",
        "x.toml:8: [networks.main] 'layered' needs 'width': a whole number of at least 1.",
        "--set networks.main.compile=1: [networks.main] 'compile' must be true or false, not 1",
        "x.toml:15: [method] 'simple' has no option 'flp'. Did you mean 'flip'?",
        "x.toml:16: [method] 'simple' has no option 'batch_size'. It is an option of [run].",
        "--set method.flip=True: [method] 'flip' must be true or false, "
        'not "True" (write true without quotes)',
    ]


def test_missing_sections_are_named():
    assert refused("") == [
        "x.toml: needs [run].",
        "x.toml: needs [networks.<role>].",
        "x.toml: needs [method].",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[method]", "[[method]]"), "'method' must be a table, not [{"),
        (("[networks.main]", "[networks]"), "[networks] 'type' must be a table, not \"layered\"."),
        (('type = "simple"', 'type = "simpel"'), "type 'simpel' is not installed. Did you mean 'simple'?"),
        (('type = "simple"', ""), "needs a type, one of: 'rich', 'simple'."),
        (('type = "simple"', "type = 3"), "needs a type, one of: 'rich', 'simple'."),
        (('type = "layered"', 'type = "shadow"'), "'shadow' has an option 'compile' of its own"),
        (
            ("k = 2", "k = 2\nschedule = 1"),
            "'schedule' is not an option of 'simple': the toolkit supplies it.",
        ),
        (("k = 2", "k = 2\ntimesteps.type = 'no'"), "[method.timesteps] type 'no' is not installed."),
        (("k = 2", '"\\u001b[31m" = 2\nk = 2'), "'simple' has no option '\\x1b[31m'."),
        (("= 8", "= 8\nmicro = 3"), "x.toml:1: [run] batch_size 8 is not a multiple of micro 3"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(change, said):
    lines = refused(RECIPE.replace(*change))
    assert [line for line in lines if said in line], lines
    assert all(line.isprintable() for line in lines)


def test_only_the_first_of_many_problems_are_shown_and_the_others_counted(folder):
    Path("x.toml").write_text(RECIPE + "".join(f"k{number} = 1\n" for number in range(5_000)))
    with pytest.raises(RecipeError) as error:
        resolve_layers(read_layers("x.toml"), registry(), SECTIONS)
    lines = str(error.value).splitlines()
    assert lines[0] == "x.toml:15: [method] 'simple' has no option 'k0'. Did you mean 'k'?"
    assert lines[-1] == "and 4,950 more problems."
    assert len(lines) == 51


def test_broken_plugins_are_listed_once_when_a_type_is_missing():
    from toolkit.registry.registry import Owner

    broken = registry()
    broken.failures[Owner("other", "other-dist", "1.0")] = "ImportError: no"
    Path("x.toml").write_text(RECIPE.replace("simple", "absent").replace("layered", "absent"))
    with pytest.raises(RecipeError) as error:
        resolve_layers(read_layers("x.toml"), broken, SECTIONS)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert lines[0] == "plugin 'other' (other-dist 1.0) could not be loaded: ImportError: no"


def test_where_names_the_nearest_place_and_the_table():
    recipe = resolve(RECIPE, "method.flip=true")
    assert recipe.where(("method",)) == "x.toml:12: [method]"
    assert recipe.where(("method", "k")) == "x.toml:14: [method]"
    assert recipe.where(("method", "flip")) == "--set method.flip=true: [method]"
    assert recipe.where(("method", "timesteps")) == "x.toml:12: [method.timesteps]"
    assert recipe.where(("networks", "absent")) == "x.toml:8: [networks.absent]"
    assert recipe.where(("run", "micro")) == "x.toml:1: [run]"
    assert recipe.where() == "x.toml:"


def test_origins_stand_behind_their_values():
    recipe = resolve(RECIPE, "method.flip=true")
    assert recipe.origin(("method", "k")) == "x.toml:14"
    assert recipe.origin(("run", "micro")) == "default"
    text = recipe.to_toml(origins=True)
    assert "flip = true  # --set method.flip=true\n" in text
    assert tomllib.loads(text) == tomllib.loads(recipe.to_toml())


def test_a_recipe_builds_components_and_keeps_common_options_apart():
    recipe = resolve(RECIPE, "method.timesteps.type=weighted", "networks.main.compile=true")
    chain = recipe.create(("schedule",), {})
    method = recipe.create(("method",), {"schedule": chain})
    assert isinstance(chain, Chain)
    assert isinstance(method, Simple)
    assert isinstance(method.timesteps, Weighted)
    assert recipe.component(("networks", "main")) == {"type": "layered", "width": 3, "classes_of": "images"}
    assert recipe.create(("networks", "main"), {"sample_shape": (1, 8, 8)}).width == 3
    common = recipe.common(("networks", "main"))
    assert isinstance(common, NetTable)
    assert common.compile
    assert isinstance(common.timesteps, Uniform)
    assert recipe.common(("run",)) == RunTable(8)


def test_what_a_component_lacks_is_told_at_its_table():
    recipe = resolve(RECIPE)
    with pytest.raises(RecipeError, match=r"^x.toml:12: \[method\] 'simple' needs a \[schedule\]\.$"):
        recipe.create(("method",), {"schedule": None})


def test_a_recipe_has_the_name_of_its_file():
    recipe = resolve(RECIPE)
    assert (recipe.name, recipe.path) == ("x", Path("x.toml"))


def test_text_of_all_kinds_survives_writing():
    table = {
        "a b": {"": 'q"\\\n\t\x7f\u2028é😀', "f": [1e-05, 1e300, -0.0, True, None, [{"k": "v"}]], "e": {}}
    }
    read = tomllib.loads(write_toml(table))
    table["a b"]["f"][4] = "none"
    assert read == table


def test_layers_and_help_need_neither_torch_nor_pydantic():
    code = "import sys, toolkit.cli, toolkit.recipe; print({'torch', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["none", "even", "rich"]),
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
keys = st.lists(
    st.sampled_from(
        ["run", "networks", "main", "method", "draw", "type", "k", "timesteps", "power", "compile"]
    )
    | st.text(max_size=5),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(keys, junk), min_size=1, max_size=4))
@pytest.mark.slow
def test_any_mutation_of_a_recipe_resolves_or_is_a_recipe_error(changes):
    tables = tomllib.loads(RECIPE)
    for path, value in changes:
        table = tables
        for key in path[:-1]:
            inner = table.get(key)
            table[key] = table = inner if isinstance(inner, dict) else {}
        table[path[-1]] = value
    try:
        recipe = from_tables(tables, REGISTRY, SECTIONS)
        assert tomllib.loads(recipe.to_toml())
        assert from_tables(recipe.tables, REGISTRY, SECTIONS).tables == recipe.tables
    except RecipeError as error:
        assert all(line.isprintable() for line in str(error).splitlines())


lines = st.sampled_from(
    [*RECIPE.splitlines(), "k = 1", "[method.timesteps]", "a.b.c = [1, {d = 2}]", "unset = ['run']", '"']
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(lines | st.text(max_size=10), max_size=12).map("\n".join),
    flags=st.lists(
        st.tuples(keys.map(".".join), st.text(max_size=8)).map("=".join) | st.text(max_size=8), max_size=2
    ),
)
def test_any_text_and_any_flags_resolve_or_are_a_recipe_error(text, flags):
    Path("x.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        resolve_layers(read_layers("x.toml", flags), REGISTRY, SECTIONS)
    except RecipeError as error:
        assert all(line.isprintable() for line in str(error).splitlines())


def test_a_section_may_be_required_without_roles():
    sections = (Section("method", SECTIONS[3].target, required=True),)
    assert from_tables({"method": {"type": "simple", "k": 1}}, REGISTRY, sections).tables["method"]["k"] == 1
