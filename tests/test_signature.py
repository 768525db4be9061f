"""Options are read from constructors, and nothing but options is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from recipe_kinds import Draw, Method, Positive, Rich, Simple, Uniform

from toolkit import options_from
from toolkit.registry.signature import REQUIRED, Default, Option, SignatureError, read_signature

UNET = "diffusers.models.unets.unet_2d:UNet2DModel"


def options_of(factory: Any) -> dict[str, Option]:
    return {option.name: option for option in read_signature(factory).options}


def test_defaults_limits_and_descriptions_come_from_the_constructor():
    options = options_of(Simple)
    assert list(options) == ["k", "timesteps", "flip"]
    assert options["k"].required
    assert options["k"].expected == "a whole number of at least 1"
    assert options["k"].description == "how many, and no fewer."
    assert options["timesteps"].description == "which ones."
    assert options["flip"].default is False


def test_supplied_parameters_are_no_options():
    signature = read_signature(Simple)
    assert [(s.name, s.needed) for s in signature.supplied] == [("schedule", True)]


def test_a_supplied_parameter_that_may_be_none_is_not_needed():
    def component(schedule: int | None, num_classes: int = 3) -> None: ...

    assert [(s.needed, s.has_default) for s in read_signature(component).supplied] == [
        (False, False),
        (False, True),
    ]


def test_nested_tables_may_be_one_several_named_or_none():
    options = options_of(Rich)
    assert [(options[name].nested, options[name].many) for name in ("draws", "named", "spare")] == [
        (Draw, list),
        (Draw, dict),
        (Draw, None),
    ]
    assert options["spare"].optional
    assert options["spare"].default is None
    assert options_of(Simple)["timesteps"].default == {"type": "uniform"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("limit", 'a whole number of at least 1, or "none"'),
        ("betas", "a list of 2: a number, a number"),
        ("channels", 'a list, each a whole number, or "none"'),
        ("colour", 'one of "red", "blue"'),
        ("mode", 'one of "fast", "slow"'),
        ("size", 'a whole number, or a list of 2: a whole number, a whole number, or "none"'),
    ],
)
def test_types_are_told_in_words(name, expected):
    assert options_of(Rich)[name].expected == expected


def test_a_class_without_a_constructor_of_its_own_has_no_options():
    assert read_signature(Uniform, interface=Draw).options == ()


def test_a_dataclass_may_have_default_factories():
    @dataclass
    class Table:
        names: list[str] = field(default_factory=lambda: ["a"])

    assert options_of(Table)["names"].default == ["a"]


def test_annotations_as_text_are_evaluated_where_they_were_written():
    def component(k: "Positive", draw: "Draw | None" = None) -> None: ...

    assert options_of(component)["k"].annotation == Positive
    assert options_of(component)["draw"].nested is Draw


def untyped(k) -> None: ...
def positional(k: int, /) -> None: ...
def star(*values: int) -> None: ...
def keywords(**values: int) -> None: ...
def none_inside(values: list[int | None]) -> None: ...
def instance(draw: Draw = Uniform()) -> None: ...  # noqa: B008
def callback(do: "Callable[[int], int]") -> None: ...  # noqa: F821
def called_type(type: str) -> None: ...
def wrong_default(k: int = "three") -> None: ...  # type: ignore[assignment]
def below_its_limit(k: Annotated[int, Field(ge=1)] = 0) -> None: ...
def plain_preset(k: Annotated[int, Default("x")]) -> None: ...
def two_kinds(draw: Draw | Method) -> None: ...


@pytest.mark.parametrize(
    "component",
    [
        untyped, positional, star, keywords, none_inside, instance, callback, called_type,
        wrong_default, below_its_limit, plain_preset, two_kinds,
    ],
)  # fmt: skip
def test_what_is_no_option_is_refused_by_name(component):
    with pytest.raises(SignatureError, match=r"'?\b(k|values|draw|do|type)\b'?"):
        read_signature(component)


def test_docstrings_of_any_layout_are_tolerated():
    def component(a: int, b: str = "") -> None:
        """Does.

        Parameters:
            a (`int`, *optional*): first: with a colon.

            b: second.
        Returns:
            c: nothing.
        """

    options = options_of(component)
    assert (options["a"].description, options["b"].description) == ("first: with a colon.", "second.")


@options_from(UNET, omit=("sample_size", "num_class_embeds"))
class Wrapped:
    """A wrapped network.

    Args:
        mine: my own.
    """

    def __init__(
        self, sample_shape: tuple[int, ...], mine: int = 1, dropout: float = 0.5, **unet: Any
    ) -> None:
        self.unet = unet


def test_foreign_options_stand_beside_own_ones_which_win():
    signature = read_signature(Wrapped)
    options = {option.name: option for option in signature.options}
    assert options["mine"].description == "my own."
    assert options["dropout"].default == 0.5
    assert options["in_channels"].description == "Number of channels in the input sample."
    assert signature.omitted == {"sample_size", "num_class_embeds"}
    assert not signature.omitted & set(options)


def test_foreign_options_reach_the_constructor_as_keywords():
    assert Wrapped((3, 8, 8), act_fn="gelu").unet == {"act_fn": "gelu"}


def test_an_unknown_name_cannot_be_omitted():
    with pytest.raises(ValueError, match="'sample_sizes'"):
        options_from(UNET, omit=("sample_sizes",))(lambda **unet: None)


def test_options_from_source_equal_the_imported_signature():
    import inspect

    from diffusers import UNet2DModel

    @options_from(UNET)
    def wrapped(**unet: Any) -> None: ...

    read = inspect.signature(wrapped).parameters
    imported = list(inspect.signature(UNet2DModel.__init__).parameters.values())[1:]
    assert [(p.name, p.default, p.annotation.__origin__) for p in read.values()] == [
        (p.name, p.default, p.annotation) for p in imported
    ]


def test_required_is_told_apart_from_a_default_of_none():
    def component(a: int | None, b: Path | None = None, c: Literal[1, 2] = 1) -> None: ...

    assert [option.default for option in read_signature(component).options] == [REQUIRED, None, 1]
