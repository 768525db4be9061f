"""Files, their parents and flags become one set of values, each with the place that stated it."""

import os
import time
from pathlib import Path

import pytest

from toolkit.errors import RecipeError
from toolkit.recipe import read_layers
from toolkit.recipe.packaged import find, packaged
from toolkit.recipe.toml import parse_flag, read_toml
from toolkit.registry.values import FlagValue


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, text):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(text):
    return read_toml(write("rows.toml", text), "rows.toml")[1]


def refused(source, *overrides):
    with pytest.raises(RecipeError) as error:
        read_layers(source, overrides)
    return str(error.value)


def test_every_key_has_the_line_that_states_it():
    found = rows('# first\n[a.b]\nc = 1\n\n"d e" = 2\n[[f]]\ng = 1\n[[f]]\ng = 2\n')
    assert found["a",] == found["a", "b"] == 2
    assert found["a", "b", "c"] == 3
    assert found["a", "b", "d e"] == 5
    assert found["f", "0", "g"] == 7
    assert found["f", "1", "g"] == 9


def test_dotted_keys_have_lines():
    found = rows('x = 1\na.b."c.d" = 2\n[t]\ne . f = 3\n')
    assert found["a", "b", "c.d"] == found["a",] == 2
    assert found["t", "e", "f"] == 4


def test_elements_of_arrays_over_several_lines_have_lines():
    found = rows("a = [\n  1, # one\n  [2,\n   3],\n  {b = 4},\n]\nc = 5\n")
    assert [found["a", str(i)] for i in range(3)] == [2, 3, 5]
    assert found["a", "1", "1"] == 4
    assert found["a", "2", "b"] == 5
    assert found["c",] == 7


def test_keys_of_inline_tables_have_lines():
    found = rows('\n[t]\na = {b = 1, c = {d = "x"}}\ne = """\n\n"""\nf = 1\n')
    assert found["t", "a", "c", "d"] == 3
    assert found["t", "f"] == 7


def test_tables_inside_arrays_of_tables_have_lines():
    found = rows("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2\n")
    assert (found["a", "0", "b", "c"], found["a", "1", "b", "c"]) == (3, 6)


def test_a_byte_order_mark_is_no_error():
    Path("x.toml").write_bytes("a = 1\n".encode("utf-8-sig"))
    assert read_layers("x.toml").values == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a = \n", "x.toml:1: "),
        (b"a = 1\nb = 2\nb = 3\n", "x.toml:3: this key is already set"),
        (b"a = [1,\n", "x.toml: "),
        (b"a = 1\n\xff", "x.toml is not UTF-8 text: byte 6"),
        (b"a = " + b"9" * 5000, "x.toml: "),
        (b"a = 0x" + b"9" * 5000, "x.toml: "),
        (b"a = " + b"[" * 3000, "x.toml is nested more than"),
        (b"a = " + b"[" * 100 + b"]" * 100, "x.toml is nested more than"),
        (b".".join([b"a"] * 3000) + b" = 1", "x.toml is nested more than"),
        (b"# " + b"x" * 1_000_001, "x.toml is larger than"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(text, said):
    Path("x.toml").write_bytes(text)
    assert refused("x.toml").startswith(said)


def test_a_missing_file_is_told_with_the_nearest():
    write("digits.toml", "")
    assert refused("digit.toml") == "digit.toml does not exist. Did you mean 'digits.toml'?"


def test_a_folder_and_a_pipe_are_no_recipes():
    Path("folder.toml").mkdir()
    os.mkfifo("pipe.toml")
    assert refused("folder.toml") == "folder.toml is not a file."
    assert refused("pipe.toml") == "pipe.toml is not a file."


@pytest.mark.parametrize("name", ["a\0b.toml", "x" * 5000 + ".toml", "\udcff.toml", "", "a/b"])
def test_odd_names_are_recipe_errors(name):
    assert refused(name).isprintable()


def test_parents_come_before_children_in_their_order_each_once():
    write("base.toml", "a = 'base'\nb = 'base'\nc = 'base'\nd = 'base'\n")
    write("one.toml", "extends = 'base.toml'\nb = 'one'\nc = 'one'\n")
    write("two.toml", "extends = ['base.toml']\nc = 'two'\n")
    write("sub/child.toml", "extends = ['../one.toml', '../two.toml']\nd = 'child'\n")
    layers = read_layers("sub/child.toml")
    assert layers.values == {"a": "base", "b": "one", "c": "two", "d": "child"}
    assert layers.origins["c",] == "two.toml:2"
    assert layers.origins["d",] == "sub/child.toml:2"


def test_a_parent_in_the_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    write("home/base.toml", "[run]\nsteps = 3\n")
    write("child.toml", 'extends = "~/base.toml"\n')
    assert read_layers("child.toml").values == read_layers("~/base.toml").values == {"run": {"steps": 3}}


def test_a_recipe_that_extends_itself_is_refused():
    write("a.toml", "extends = 'b.toml'")
    write("b.toml", "extends = 'a.toml'")
    assert "a.toml extends itself: a.toml -> b.toml -> a.toml." in refused("a.toml")


def test_a_missing_parent_is_told_where_it_is_named():
    write("a.toml", "\nextends = ['b.toml']")
    assert refused("a.toml") == "a.toml:2: extends 'b.toml': b.toml does not exist. Did you mean 'a.toml'?"
    write("a.toml", "extends = ['quickstrt']")
    assert "a.toml:1: extends 'quickstrt': there is no packaged recipe 'quickstrt'" in refused("a.toml")
    write("a.toml", "extends = 3")
    assert refused("a.toml") == "a.toml:1: 'extends' must be a name in quotes, or a list of them."


def test_tables_merge_and_arrays_replace():
    write("a.toml", "[t]\nx = 1\ny = [1, 2]\n[t.u]\nv = 1\n")
    write("b.toml", "extends = 'a.toml'\n[t]\ny = [3]\nu.w = 2\n")
    assert read_layers("b.toml").values == {"t": {"x": 1, "y": [3], "u": {"v": 1, "w": 2}}}


def test_another_type_replaces_the_whole_table_and_a_note_says_so():
    write("a.toml", "[o]\ntype = 'one'\nk = 1\n[o.u]\nv = 1\n")
    write("b.toml", "extends = 'a.toml'\n[o]\ntype = 'two'\nj = 2\n")
    layers = read_layers("b.toml")
    assert layers.values == {"o": {"type": "two", "j": 2}}
    assert layers.notes == ["b.toml:3: [o] type 'one' became 'two', which drops k, u"]
    assert ("o", "u", "v") not in layers.origins


def test_the_same_type_again_merges():
    write("a.toml", "[o]\ntype = 'one'\nk = 1\n")
    write("b.toml", "extends = 'a.toml'\n[o]\ntype = 'one'\nj = 2\n")
    assert read_layers("b.toml").values == {"o": {"type": "one", "k": 1, "j": 2}}


def test_unset_removes_what_parents_state():
    write("a.toml", "[t]\nx = 1\ny = 2\n[e.r]\nz = 3\n")
    write("b.toml", "extends = 'a.toml'\nunset = ['t.x', 'e.r']\n")
    assert read_layers("b.toml").values == {"t": {"y": 2}, "e": {}}
    assert read_layers("b.toml", ['unset=["t"]']).values == {"e": {}}


@pytest.mark.slow
def test_many_tables_are_merged_in_seconds(folder):
    count = 20_000
    for name, header in (
        ("tables.toml", "[t{}]"),
        ("roles.toml", "[t.r{}]"),
        ("elements.toml", "[[t]]\nn = {}"),
    ):
        (folder / name).write_text("\n".join(header.format(number) for number in range(count)))
        (folder / "child.toml").write_text(f'extends = "{name}"\n' + (folder / name).read_text())
        start = time.process_time()
        layers = read_layers(folder / "child.toml")
        assert time.process_time() - start < 10  # about 1 s; with a search for each table, minutes
        assert len(layers.origins) >= count


def test_elements_of_an_array_that_is_replaced_or_removed_have_no_origin_left(folder):
    (folder / "parent.toml").write_text("[a]\nb = [\n{ c = 1 },\n[2, 3],\n]\nd = [4]\n")
    (folder / "child.toml").write_text('extends = "parent.toml"\nunset = "a.d"\n[a]\nb = [5]\n')
    origins = read_layers(folder / "child.toml").origins
    inside = {key: at for key, at in origins.items() if key[0] == "a"}
    assert {key: at.rpartition("/")[2] for key, at in inside.items()} == {
        ("a",): "child.toml:3", ("a", "b"): "child.toml:4", ("a", "b", "0"): "child.toml:4",
    }  # fmt: skip


def test_unset_of_what_is_not_there_is_refused():
    write("a.toml", "[t]\nxenon = 1\n")
    write("b.toml", "extends = 'a.toml'\nunset = 't.xenn'\n")
    assert refused("b.toml").startswith("b.toml:2: unset 't.xenn': there is nothing of that name")
    assert "Did you mean 't.xenon'?" in refused("b.toml")
    write("b.toml", "unset = 'a = 1'\n")
    assert "'a = 1' is not a key such as a.b" in refused("b.toml")


def test_flags_are_the_last_layer_in_any_order():
    write("a.toml", "[o]\ntype = 'one'\nk = 1\n")
    layers = read_layers("a.toml", ["o.j=text", "o.type=two", "o.j=more", "o.u={v = 1}"])
    assert layers.values == {"o": {"type": "two", "j": "more", "u": {"v": 1}}}
    assert layers.origins["o", "j"] == "--set o.j=more"
    assert layers.origins["o", "u", "v"] == "--set o.u={v = 1}"


@pytest.mark.parametrize(
    ("flag", "path", "value"),
    [
        ("a.b=1", ("a", "b"), FlagValue("1", 1)),
        ("a=word", ("a",), "word"),
        ('a="quoted"', ("a",), "quoted"),
        ('"a.b".c=x=y', ("a.b", "c"), "x=y"),
        ("a=", ("a",), ""),
        ("a=1\nb=2", ("a",), "1\nb=2"),
        ("a={b = 1}", ("a",), {"b": 1}),
    ],
)
def test_a_flag_is_toml_or_text(flag, path, value):
    assert parse_flag(flag) == (path, value)


@pytest.mark.parametrize(
    "flag",
    [
        "a",
        "=1",
        "a..b=1",
        "a b=1",
        "a\nb=1",
        "extends=x",
        "\x1b=1",
        "\udcff=1",
        "a=\udcff",
        ".".join("a" * 99) + "=1",
    ],
)
def test_a_flag_that_sets_nothing_is_refused(flag):
    write("a.toml", "")
    said = refused("a.toml", flag)
    assert said.startswith("--set ")
    assert said.isprintable()


def test_a_flag_may_replace_a_value_by_a_table():
    write("a.toml", "x = 1\n")
    assert read_layers("a.toml", ["x.y=word", "x.z.w=word"]).values == {
        "x": {"y": "word", "z": {"w": "word"}}
    }


def test_packaged_recipes_are_found_by_name_and_say_their_purpose():
    recipes = {recipe.name: recipe for recipe in packaged()}
    assert find("quickstart") == recipes["quickstart"].path
    assert recipes["quickstart"].purpose.startswith("DDPM on scikit-learn's 8x8 digits")


def test_a_plugin_may_bring_recipes_and_is_not_imported_for_them(folder, monkeypatch):
    write("plug/__init__.py", "raise RuntimeError('imported')")
    recipe = write("plug/recipes/of_a_plugin.toml", "# What it is for.\na = 1\n")
    write("plug-1.0.dist-info/METADATA", "Name: plug\nVersion: 1.0\n")
    write("plug-1.0.dist-info/entry_points.txt", "[toolkit]\nplug = plug.hooks\n")
    monkeypatch.syspath_prepend(folder)
    assert find("of_a_plugin") == recipe.absolute()
    write("child.toml", "extends = 'of_a_plugin'")
    assert read_layers("child.toml").values == {"a": 1}


def test_a_name_that_two_packages_use_is_refused(folder, monkeypatch):
    for name in ("one", "two"):
        write(f"{name}/__init__.py", "")
        write(f"{name}/recipes/same.toml", "")
        write(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n")
        write(f"{name}-1.0.dist-info/entry_points.txt", f"[toolkit]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(folder)
    assert "there are several recipes 'same'" in refused("same")
