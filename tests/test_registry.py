"""Components by kind and name, complete tables, and the objects that they describe."""

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_kinds import (
    Chain,
    Colour,
    Draw,
    Layered,
    Method,
    Net,
    Rich,
    Simple,
    Uniform,
    Weighted,
    even,
    registry,
)

from toolkit.errors import PluginError, RecipeError
from toolkit.registry.registry import Owner, Registry, bracketed

CHAIN = even(4)


def create(target, table, **supplied):
    return registry().create(target, table, supplied=supplied, where=bracketed)


def test_an_interface_without_a_kind_above_it_becomes_one():
    found = Registry()
    found.add(Draw, "uniform", Uniform)
    assert found.kinds() == (Draw,)
    assert found.component(Draw, "uniform").factory is Uniform


def test_a_component_is_filed_under_the_nearest_declared_kind_and_keeps_its_interface():
    class Encoder(Net):
        pass

    class Small(Encoder):
        pass

    found = registry()
    found.add(Encoder, "small", Small)
    assert found.components(Net)["small"].interface is Encoder
    assert list(found.components(Encoder)) == ["small"]
    assert Encoder not in found.kinds()


def test_a_declared_kind_is_not_filed_under_the_kind_above_it():
    class Special(Net):
        pass

    class One(Special):
        pass

    found = registry()
    found.declare(Special)
    found.add(Special, "one", One)
    assert "one" not in found.components(Net)
    assert list(found.components(Special)) == ["one"]


def test_a_name_that_is_added_twice_is_disabled_for_all_and_says_by_whom():
    found = registry()
    with found.owned_by(Owner("other", "other-dist", "2.0")):
        found.add(Method, "simple", Simple)
    assert "simple" not in found.components(Method)
    with pytest.raises(
        PluginError, match="more than once, by toolkit and by plugin 'other' .other-dist 2.0."
    ):
        found.component(Method, "simple")


class Abstract(Draw, ABC):
    @abstractmethod
    def more(self) -> None: ...


def returns_nothing(k: int): ...


def takes_anything(value: Any) -> Chain: ...


def takes_any_list(values: list) -> Chain: ...


def wants_an_unknown_kind(where: Path | None, thing: Registry) -> Chain: ...


@pytest.mark.parametrize(
    ("interface", "component", "reason"),
    [
        (Draw, Simple, "it is not a subclass of Draw"),
        (Draw, Abstract, "abstract: draw, more"),
        (Chain, returns_nothing, "its return type is not a subclass of Chain"),
        (Chain, 3, "neither a class nor a function"),
        (Chain, takes_anything, "'value', Any, is neither"),
        (Chain, takes_any_list, "'values', list, is neither"),
        (Chain, wants_an_unknown_kind, "'thing', Registry, is neither plain nor a kind"),
    ],
)
def test_an_unusable_component_is_disabled_and_says_why(interface, component, reason):
    found = registry()
    found.add(interface, "unusable", component)
    assert "unusable" not in found.components(interface)
    with pytest.raises(PluginError, match=reason):
        found.component(interface, "unusable")


@pytest.mark.parametrize("name", ["Simple", "two-words", "", "1st"])
def test_names_are_lower_snake(name):
    with pytest.raises(PluginError, match="lower_snake_case"):
        registry().add(Draw, name, Uniform)


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all():
    with pytest.raises(PluginError, match="'unifrom' is not installed. Did you mean 'uniform'?"):
        registry().component(Draw, "unifrom")
    with pytest.raises(PluginError, match="Installed: 'uniform', 'weighted'"):
        registry().component(Draw, "x")


def test_what_a_failing_plugin_added_is_taken_back():
    found = registry()
    with pytest.raises(RuntimeError), found.owned_by(Owner("broken")):
        found.add(Uniform, "half", Uniform)
        found.add(Draw, "half", Uniform)
        raise RuntimeError
    assert "half" not in found.components(Draw)
    assert Uniform not in found.kinds()


def test_a_complete_table_has_its_type_and_every_default():
    assert registry().resolve(Method, {"type": "simple", "k": 1}) == {
        "type": "simple",
        "k": 1,
        "timesteps": {"type": "uniform"},
        "flip": False,
    }


def test_a_complete_table_completes_to_itself():
    table = {"type": "rich", "draws": [{"type": "uniform"}], "named": {"a": {"type": "weighted"}}}
    complete = registry().resolve(Method, table)
    assert complete["folder"] == str(Path("somewhere").absolute())
    assert complete["named"] == {"a": {"type": "weighted", "power": 1.0}}
    assert registry().resolve(Method, complete) == complete


def test_all_problems_of_a_table_are_told_together():
    table = {"type": "rich", "draws": [{"type": "weighted", "powr": 2}], "named": 3, "limit": 0, "titel": ""}
    with pytest.raises(RecipeError) as error:
        registry().resolve(Method, table)
    assert str(error.value).splitlines() == [
        "[titel] 'rich' has no option 'titel'. Did you mean 'title'?",
        "[draws.0.powr] 'weighted' has no option 'powr'. Did you mean 'power'?",
        "[named] 'named' must be a table, each value a table with a type (Draw), not 3",
        "[limit] 'limit' must be a whole number of at least 1, or \"none\", not 0",
    ]


def test_a_supplied_parameter_in_a_table_is_answered_as_such():
    with pytest.raises(RecipeError, match="'schedule' is not an option of 'simple': the toolkit supplies it"):
        registry().resolve(Method, {"type": "simple", "k": 1, "schedule": 3})


def test_nested_components_are_built_with_what_they_ask_for():
    made = create(
        Method, {"type": "simple", "k": 2, "timesteps": {"type": "weighted", "power": 2}}, schedule=CHAIN
    )
    assert made.schedule is CHAIN
    assert isinstance(made.timesteps, Weighted)
    assert (made.timesteps.length, made.timesteps.power) == (4, 2.0)


def test_values_arrive_as_their_types_have_them():
    table = {"type": "rich", "draws": [{"type": "uniform"}], "named": {}, "colour": "blue", "betas": [0, 1]}
    given = create(Method, table | {"size": [2, 3], "spare": "none"}).given
    assert given["colour"] is Colour.BLUE
    assert given["betas"] == (0.0, 1.0)
    assert given["size"] == (2, 3)
    assert given["folder"] == Path("somewhere").absolute()
    assert given["spare"] is None
    assert isinstance(given["draws"][0], Uniform)


def test_a_component_that_needs_what_the_recipe_lacks_says_so():
    with pytest.raises(RecipeError, match=r"^\[\] 'simple' needs a \[schedule\].$"):
        create(Method, {"type": "simple", "k": 1}, schedule=None)
    with pytest.raises(RecipeError, match=r"^\[timesteps\] 'weighted' needs a \[schedule\].$"):
        create(Method, {"type": "simple", "k": 1, "timesteps": {"type": "weighted"}})


def test_a_value_error_of_a_constructor_is_told_in_one_line_at_its_table():
    with pytest.raises(RecipeError, match=r"^\[\] a limit of 13 brings bad luck$"):
        create(Method, {"type": "rich", "draws": [], "named": {}, "limit": 13})


def test_an_error_that_names_an_option_is_told_at_that_option_of_an_inner_table_too():
    class Picky(Draw):
        def __init__(self, low: int, high: int = 2) -> None:
            raise RecipeError("must be odd", option="low" if high == 2 else "of another table")

        def draw(self) -> float:
            return 0

    found = registry()
    found.add(Draw, "picky", Picky)
    for options, place in (({"low": 2}, "[draws.0.low] low:"), ({"low": 2, "high": 3}, "[draws.0]")):
        table = {"type": "rich", "draws": [{"type": "picky", **options}], "named": {}}
        with pytest.raises(RecipeError, match=rf"^{re.escape(place)} must be odd$"):
            found.create(Method, table, supplied={}, where=bracketed)


def test_another_error_of_a_constructor_is_told_with_its_place_in_the_code():
    class Buggy(Draw):
        def __init__(self) -> None:
            raise KeyError("oops")

        def draw(self) -> float:
            return 0

    found = registry()
    found.add(Draw, "buggy", Buggy)
    with pytest.raises(RecipeError) as error:
        found.create(Draw, {"type": "buggy"}, supplied={}, where=lambda path: "x.toml:3: [draw]")
    assert isinstance(error.value.__cause__, KeyError)
    at = Buggy.__init__.__code__.co_firstlineno + 1
    assert str(error.value) == (
        f"x.toml:3: [draw] 'buggy' cannot be built from its defaults: KeyError: 'oops' (at {__file__}:{at})"
    )


class Tower(Net, torch.nn.Module):
    def __init__(self, layers: int = 1, width: int = 1, norms: bool = False) -> None:
        super().__init__()
        kind = torch.nn.Identity if norms else torch.nn.Linear
        self.layers = torch.nn.Sequential(*(kind(width, width) for _ in range(layers)))


def tower(**options):
    found = registry()
    found.add(Net, "tower", Tower)
    return found.create(Net, {"type": "tower", **options}, supplied={}, where=lambda path: "x.toml:2: [net]")


@pytest.mark.parametrize("norms", [False, True])
def test_a_network_of_far_too_many_layers_is_refused_while_it_is_built(norms, monkeypatch):
    monkeypatch.setattr("toolkit.registry.limits.LAYERS", 400)
    assert len(tower(layers=100, norms=norms).layers) == 100
    with pytest.raises(RecipeError, match=r"^x.toml:2: \[net\] has more than 400 layers: layers = 1000"):
        tower(layers=1_000, norms=norms)
    assert not torch.nn.modules.module._global_parameter_registration_hooks


def test_a_network_that_fills_the_memory_is_refused_before_it_does(monkeypatch):
    monkeypatch.setattr(
        "toolkit.registry.limits.os.sysconf", {"SC_PHYS_PAGES": 2000, "SC_PAGE_SIZE": 4096}.get
    )
    tower(layers=4, width=500)
    with pytest.raises(
        RecipeError,
        match="needs more than 0.00381 GiB, half of this machine's memory: layers = 5, width = 500",
    ):
        tower(layers=5, width=500)


def test_functions_are_components_too():
    assert create(Chain, {"type": "even", "length": 7}).length == 7


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("flip", "True", 'must be true or false, not "True" (write true without quotes)'),
        ("flip", 1, "must be true or false, not 1"),
        ("k", "8", 'must be a whole number of at least 1, not "8" (write 8 without quotes)'),
        ("k", 2.0, "must be a whole number of at least 1, not 2.0 (write 2)"),
        ("k", True, "must be a whole number of at least 1, not true"),
        ("k", float("inf"), "must be a whole number of at least 1, not inf"),
        ("k", 10**400, "must be a whole number of at least 1, not 1000"),  # torch has none so large
        ("timesteps", "uniform", "must be a table, not \"uniform\""),
        ("timesteps", {"type": 3}, "needs a type, one of: 'uniform', 'weighted'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_was_expected(option, value, said):
    table = {"type": "simple", "k": 1, option: value}
    with pytest.raises(RecipeError) as error:
        registry().resolve(Method, table)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("betas", [0.9, "x"], '[0.9, "x"], where [1] is "x"'),
        ("betas", [0.9, float("nan")], "where [1] is nan"),
        ("channels", 3, "not 3 (write [3])"),
        ("title", 3, 'must be text, not 3 (write "3", in quotes)'),
        ("extra", {"a": "b"}, 'where ["a"] is "b"'),
        ("mode", "fats", 'must be one of "fast", "slow", not "fats". Did you mean \'fast\'?'),
        ("mode", "quick", 'must be one of "fast", "slow", not "quick"'),
        ("title", "a\x1b[31m", None),
    ],
)
def test_a_wrong_element_is_pointed_out(option, value, said):
    table = {"type": "rich", "draws": [], "named": {}, option: value}
    if said is None:
        registry().resolve(Method, table)
        return
    with pytest.raises(RecipeError) as error:
        registry().resolve(Method, table)
    assert said in str(error.value)


def test_shapes_are_supplied_by_name():
    assert create(Net, {"type": "layered", "width": 2}, sample_shape=(3, 8, 8)).sample_shape == (3, 8, 8)
    assert registry().component(Net, "layered").factory is Layered
    assert registry().component(Method, "rich").factory is Rich
