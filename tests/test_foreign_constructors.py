"""A user's values in somebody else's constructors: built, or refused by the name of the option."""

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch

from toolkit import Denoiser, NoiseSchedule, RecipeError, Sampler, options_from
from toolkit.diffusion.sampler import count_calls
from toolkit.registry import load as plugins
from toolkit.registry.registry import Registry
from toolkit.registry.signature import read_signature

pytestmark = pytest.mark.slow  # every option with every value

UNET = {
    "type": "unet", "block_out_channels": [8, 16], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"], "layers_per_block": 1, "norm_num_groups": 4,
    "attention_head_dim": 4,
}  # fmt: skip
OF_OTHERS = {  # networks that are, or contain, diffusers' UNet2DModel
    "unet": UNET,
    "mbconv_unet": UNET,
    "ddgan_light_generator": {**UNET, "latent_width": 4, "mapping_width": 8, "mapping_layers": 1},
}
NONSENSE: list[Any] = [
    0, -1, 1, 7, 10**6, 10**30, 1.5, -0.5, 1e30, float("nan"), float("inf"), "x", "", True, None, "none", [],
    [0], [8], [8, -8], [8, 9], [8, 8, 8], ["x", "x"], ["DownBlock2D"], ["AttnDownBlock2D", "SkipDownBlock2D"],
    ["SkipUpBlock2D", "UpBlock2D"], [[8, 8]], {}, {"a": 1}, "fourier", "learned", "scale_shift", "resnet",
]  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Registry:
    return plugins.load().registry


@pytest.fixture(scope="module")
def chain(registry: Registry) -> NoiseSchedule:
    table = {"type": "linear", "num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1}
    built: NoiseSchedule = registry.create(NoiseSchedule, table, supplied={}, where=lambda path: "[schedule]")
    return built


def network(registry: Registry, schedule: NoiseSchedule, table: Mapping[str, Any]) -> Denoiser:
    """Without memory for its weights, as they are not what is asked about."""
    supplied = {"schedule": schedule, "sample_shape": (3, 8, 8), "num_classes": 10}
    with torch.device("meta"):
        built: Denoiser = registry.create(
            Denoiser,
            table,
            supplied=supplied,
            where=lambda path: f"[{'.'.join(('networks.denoiser', *path))}]",
        )
    return built


def sampler(registry: Registry, schedule: NoiseSchedule, name: object, options: object) -> Sampler:
    table = {"type": "diffusers", "scheduler": name, "options": options}
    built: Sampler = registry.create(
        Sampler,
        table,
        supplied={"schedule": schedule},
        where=lambda path: f"[{'.'.join(('sampler', *path))}]",
    )
    return built


@pytest.mark.parametrize("name", OF_OTHERS)
def test_every_option_of_a_unet_takes_or_refuses_every_value_by_name(
    name: str, registry: Registry, chain: NoiseSchedule
) -> None:
    options = {option.name for option in registry.component(Denoiser, name).options}
    table = {key: value for key, value in OF_OTHERS[name].items() if key in options} | {"type": name}
    assert network(registry, chain, table)
    refused = 0
    for option in options:
        for value in NONSENSE:
            try:
                network(registry, chain, {**table, option: value})
            except RecipeError as error:
                assert str(error).startswith("[networks.denoiser") and option in str(error), (option, value)
                refused += 1
    assert refused > len(options) * len(NONSENSE) / 2


@pytest.mark.parametrize(("options", "sentence"), [
    ({"block_out_channels": []}, r"block_out_channels = \[\] has no level"),
    ({"layers_per_block": 0}, "'layers_per_block' must be a whole number of at least 1"),
    ({"layers_per_block": 10**6}, "'layers_per_block' must be a whole number .* of at most 64"),
    ({"up_block_types": ["UpBlock2D"]}, "2 in block_out_channels, 2 in down_block_types, 1 in up_block"),
    ({"norm_num_groups": 5}, r"norm_num_groups = 5 must divide .* block_out_channels = \[8, 16\]"),
    ({"attention_head_dim": 3}, "attention_head_dim = 3 must divide the channels of every level with"),
    ({"attn_norm_num_groups": 3}, "attn_norm_num_groups = 3 must divide the channels of the last level"),
    ({"freq_shift": 4}, "freq_shift = 4 must be below 4, half the channels of the first level"),
    ({"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "'down_block_types' must be a list"),
    ({"mid_block_type": "x"}, "'mid_block_type' must be \"UNetMidBlock2D\""),
    ({"act_fn": "sillu"}, "'act_fn' must be one of \"silu\""),
    ({"dropout": 1}, "'dropout' must be a number of at least 0 and below 1"),
    ({"time_embedding_type": "fourier"}, "takes the logarithm of t, which is 0 on a chain"),
    ({"up_block_types": ["SkipUpBlock2D", "UpBlock2D"]}, "up_block_types = .* must be those of the first"),
])  # fmt: skip
def test_options_of_a_unet_that_cannot_be_are_refused_with_what_is_allowed(
    options: dict[str, Any], sentence: str, registry: Registry, chain: NoiseSchedule
) -> None:
    with pytest.raises(RecipeError, match=sentence) as caught:
        network(registry, chain, UNET | options)
    assert len(str(caught.value).splitlines()) == 1


DOWN = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"]
UP = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("up", UP)
def test_a_unet_of_any_allowed_blocks_predicts(
    down: str, up: str, registry: Registry, chain: NoiseSchedule
) -> None:
    blocks = {"down_block_types": [down, "DownBlock2D"], "up_block_types": ["UpBlock2D", up]}
    # Attention beside a skip has groups of 32 channels.
    denoiser = network(registry, chain, {**UNET, **blocks, "block_out_channels": [32, 64]})
    x, t = torch.empty((2, 3, 8, 8), device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    assert denoiser.get_submodule("model")(x, t).sample.shape == x.shape


SCHEDULERS = (
    "DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler",
    "LCMScheduler",
)  # fmt: skip
VALUES: list[Any] = [0, -1, 3, 10**6, 1.5, "x", True, "leading", "learned", "bh1"]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_takes_or_refuses_every_value_of_its_options_by_name(
    name: str, registry: Registry, chain: NoiseSchedule
) -> None:
    for option in inspect.signature(getattr(diffusers, name)).parameters:
        for value in VALUES:
            try:
                built = sampler(registry, chain, name, {option: value})
            except RecipeError as error:
                assert str(error).startswith("[sampler") and option in str(error), (option, value)
                continue
            try:
                times = built.grid(chain, 5, None)
            except ValueError:
                continue
            count_calls(built, chain, times, 3)  # walks


@pytest.mark.parametrize("option", [
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "trained_betas",
    "rescale_betas_zero_snr",
])  # fmt: skip
def test_options_of_a_scheduler_that_follow_from_the_schedule_are_refused(
    option: str, registry: Registry, chain: NoiseSchedule
) -> None:
    with pytest.raises(RecipeError, match=f"^\\[sampler\\] options.{option} is not the recipe's to set"):
        sampler(registry, chain, "DDIMScheduler", {option: 1})


@pytest.mark.parametrize("name", [
    "x", "", "DDIM", "UNet2DModel", 1, None, "KarrasVeScheduler", "AmusedScheduler", "RePaintScheduler",
    "CogVideoXDPMScheduler", "DDIMInverseScheduler",
])  # fmt: skip
def test_what_is_no_scheduler_or_no_sampler_is_refused(
    name: object, registry: Registry, chain: NoiseSchedule
) -> None:
    with pytest.raises(RecipeError, match=r"^\[sampler") as caught:
        sampler(registry, chain, name, {})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_number_of_steps_can_be_walked_or_is_refused(
    name: str, registry: Registry, chain: NoiseSchedule
) -> None:
    offset = "steps_offset" in inspect.signature(getattr(diffusers, name)).parameters
    for options in ({}, {"steps_offset": 1}) if offset else ({},):
        built = sampler(registry, chain, name, options)
        for steps in (1, 2, 3, 50, 99, 100, 101, 10**9):
            try:
                times = built.grid(chain, steps, None)
            except ValueError as error:
                assert "num_inference_steps" in str(error) and steps != 50
                continue
            assert steps <= 100
            count_calls(built, chain, times, 3)


def test_limits_narrow_the_types_of_foreign_options_and_keep_their_descriptions() -> None:
    target = "diffusers.models.unets.unet_2d:UNet2DModel"

    @options_from(target, omit=("dropout",), limits={"act_fn": bool, "dropout": bool, "norm_eps": bool})
    def wrapped(norm_eps: float = 1.0, **unet: Any) -> None: ...

    parameters = inspect.signature(wrapped).parameters
    assert parameters["act_fn"].annotation.__origin__ is bool
    assert "activation" in parameters["act_fn"].annotation.__metadata__[0].description
    assert parameters["norm_eps"].annotation is float and "dropout" not in parameters
    with pytest.raises(ValueError, match="no parameter 'act_fm' to limit"):
        options_from(target, limits={"act_fm": bool})(lambda **unet: None)


def test_whatever_a_foreign_constructor_raises_names_what_was_given(registry: Registry) -> None:
    @options_from("diffusers.models.unets.unet_2d:UNet2DModel")
    class Foreign(Denoiser):
        """Fails."""

        def __init__(self, **unet: Any) -> None:
            raise {"a": KeyError, "b": ZeroDivisionError, "c": AssertionError}[unet["act_fn"]]("no\nreason")

        def forward(self, *args: Any, **more: Any) -> Any: ...

    copy = registry.copy()
    copy.add(Denoiser, "foreign", Foreign)
    assert read_signature(Foreign).foreign
    for value, kind in (
        ("a", "KeyError"),
        ("b", "ZeroDivisionError"),
        ("c", "AssertionError"),
        ("d", "KeyError"),
    ):
        with pytest.raises(RecipeError) as caught:
            copy.create(
                Denoiser, {"type": "foreign", "act_fn": value}, supplied={}, where=lambda path: "[here]"
            )
        message = str(caught.value)
        assert message.startswith(f"[here] 'foreign' cannot be built from act_fn = \"{value}\": {kind}: ")
        assert "\n" not in message
