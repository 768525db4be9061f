"""diffusers' UNet2DModel as a denoiser."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.prediction import Prediction, Target, refuse_target
from toolkit.diffusion.schedule import NoiseSchedule
from toolkit.hf.lean import unet_class
from toolkit.registry.foreign import options_from
from toolkit.registry.signature import Positive

if TYPE_CHECKING:
    from diffusers import UNet2DModel

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow"]  # as diffusers calls the first three
TARGETS: Mapping[str, Target] = {
    "epsilon": "noise",
    "sample": "x0",
    "v_prediction": "velocity",
    "flow": "flow",
}

SUPPLIED_BY_US = (
    "sample_size",
    "in_channels",
    "out_channels",
    "center_input_sample",
    "class_embed_type",
    "num_class_embeds",
    "num_train_timesteps",
)

# Blocks that work in a UNet2DModel, tried with diffusers 0.42.1: the others need text, or return something
# other than it expects.
DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
Resampling = Literal["conv", "resnet"]

UNET_LIMITS: Mapping[str, Any] = {
    "time_embedding_type": Literal["positional", "fourier"],  # "learned" needs num_train_timesteps
    "time_embedding_dim": Positive | None,
    "freq_shift": Annotated[int, Field(ge=0)],
    "flip_sin_to_cos": bool,
    "down_block_types": tuple[DownBlock, ...],
    "mid_block_type": Literal["UNetMidBlock2D"] | None,  # diffusers takes any text for this
    "up_block_types": tuple[UpBlock, ...],
    "block_out_channels": tuple[Positive, ...],
    "layers_per_block": Annotated[int, Field(ge=1, le=64)],  # 64 take seconds to build, 10**6 hours
    "mid_block_scale_factor": Annotated[float, Field(gt=0)],  # a divisor
    "downsample_padding": Annotated[int, Field(ge=0, le=1)],  # with more, sides are no longer halved
    "downsample_type": Resampling,
    "upsample_type": Resampling,
    "dropout": Annotated[float, Field(ge=0, lt=1)],
    "act_fn": Literal["silu", "swish", "mish", "gelu", "relu"],
    "attention_head_dim": Positive | None,
    "norm_num_groups": Positive,
    "attn_norm_num_groups": Positive | None,
    "norm_eps": Annotated[float, Field(ge=0)],
    "resnet_time_scale_shift": Literal["default", "scale_shift"],
    "add_attention": bool,
}


class UNetDenoiser(Denoiser, ABC):
    """A denoiser that may be a plain UNet2DModel, whose weights are then saved in diffusers' own format."""

    prediction: PredictionType

    @abstractmethod
    def unet(self) -> "UNet2DModel | None":
        """The UNet2DModel that computes all that this denoiser does, if plain diffusers can sample with it.

        None for every other denoiser: a model that plain diffusers would sample wrongly must not look as if
        it could be sampled there.
        """


class UNet(UNetDenoiser):
    """diffusers' UNet2DModel; image sides must be divisible by 2^(levels - 1).

    Args:
        prediction: what the network computes.
        learned_variance: doubles the output channels; the second half v, as (v + 1) / 2, places the log
            variance between its bounds (Nichol & Dhariwal 2021).
        conditional: learn an embedding of the labels.
        null_class: also learn an embedding of "no class", for guidance; the objective's `label_dropout`
            trains it.
        time_scale: the network gets time_scale x t; by default 1 on a chain, 1000 on a continuous path. The
            `rescale_timesteps` of improved DDPM is 1000 / T.
        init: "torch" keeps torch's default; "zero_last" too, but each residual branch and the network end in
            zeros (Nichol & Dhariwal 2021); "xavier" draws weights as Ho et al. (2020) do: Xavier-uniform,
            biases zero, and at those ends nearly zero.
        attention_out_gain: with "xavier", the gain at the end of attention, by default 1e-5 as at other ends.
        attention_heads: heads of every attention, however wide its level; `attention_head_dim` then has no
            effect.
    """

    @options_from("diffusers.models.unets.unet_2d:UNet2DModel", omit=SUPPLIED_BY_US, limits=UNET_LIMITS)
    def __init__(
        self,
        schedule: NoiseSchedule,
        sample_shape: tuple[int, ...],
        num_classes: int | None,
        prediction: PredictionType = "epsilon",
        learned_variance: bool = False,
        conditional: bool = False,
        null_class: bool = False,
        time_scale: Annotated[float, Field(gt=0)] | None = None,
        init: Literal["torch", "zero_last", "xavier"] = "torch",
        attention_out_gain: Annotated[float, Field(ge=0)] | None = None,
        attention_heads: Positive | None = None,
        **unet: Any,
    ) -> None:
        super().__init__()
        levels = len(unet["block_out_channels"])
        shapes = unet_shapes(sample_shape, levels, num_classes, learned_variance, conditional, null_class)
        if attention_heads is not None:
            unet["attention_head_dim"] = None
        check_unet(shapes | unet | {"attention_heads": attention_heads}, schedule)
        if attention_out_gain is not None and init != "xavier":
            raise ValueError(
                f'attention_out_gain = {attention_out_gain} is for init = "xavier", not "{init}"'
            )
        self.model: UNet2DModel = unet_class()(**shapes, **unet)
        self._schedule, self.prediction = schedule, prediction
        self._learned_variance, self.conditional, self.null_class = learned_variance, conditional, null_class
        self._time_scale = time_scale or (1.0 if schedule.discrete else 1000.0)
        self._target = TARGETS[prediction]
        refuse_target(schedule, self._target)
        self.attention_heads = attention_heads
        self._plain = schedule.discrete and self._time_scale == 1 and attention_heads is None
        if attention_heads is not None:
            _set_heads(self.model, attention_heads)
        if init != "torch":
            _initialise(self.model, init, 1e-5 if attention_out_gain is None else attention_out_gain)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        time = t if self._time_scale == 1 else t * self._time_scale
        out = self.model(x_t, time, label if self.conditional else None, return_dict=False)[0]
        return Prediction.from_output(self._schedule, x_t, t, out, self._target, self._learned_variance)

    def unet(self) -> "UNet2DModel | None":
        return self.model if self._plain and not self._learned_variance else None


def unet_shapes(
    sample_shape: tuple[int, ...],
    levels: int,
    num_classes: int | None,
    learned_variance: bool = False,
    conditional: bool = False,
    null_class: bool = False,
) -> dict[str, Any]:
    """The arguments of a UNet2DModel that follow from what it denoises.

    Raises:
        ValueError: if the data is not images, or the images cannot be halved between so many levels; if
            there is no level; for a conditional network without classes; for null_class without conditional.
    """
    if levels < 1:
        raise ValueError("block_out_channels = [] has no level: a UNet needs at least one")
    if len(sample_shape) != 3:
        raise ValueError(f"a UNet works on images (channels, height, width), not on {sample_shape}")
    if conditional and num_classes is None:
        raise ValueError("conditional = true needs labelled data")
    if null_class and not conditional:
        raise ValueError("null_class = true is for a network with conditional = true")
    channels, height, width = sample_shape
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"{levels} levels halve the image {levels - 1} times, so {height}x{width} must be divisible "
            f"by {2 ** (levels - 1)}: pad the data (size, fit) or use fewer block_out_channels"
        )
    return {
        "sample_size": (height, width) if height != width else height,
        "in_channels": channels,
        "out_channels": channels * (2 if learned_variance else 1),
        "num_class_embeds": (num_classes or 0) + null_class if conditional else None,
    }


def check_unet(unet: Mapping[str, Any], schedule: NoiseSchedule) -> None:
    """Check options of a UNet2DModel against each other; `UNET_LIMITS` checks each by itself.

    diffusers accepts some of what is refused here, and then fails in the first forward pass, or computes NaN.

    Args:
        unet: arguments of a UNet2DModel; rules about missing ones are skipped.
        schedule: the path whose times it gets.

    Raises:
        ValueError: naming the options that contradict each other, with their values.
    """
    channels = list(unet["block_out_channels"])
    down, up = list(unet.get("down_block_types", ())), list(unet.get("up_block_types", ()))
    lists = {"block_out_channels": channels, "down_block_types": down, "up_block_types": up}
    lengths = {name: len(value) for name, value in lists.items() if name in unet}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise ValueError(f"each level needs one entry in each of these lists, not {listed}")
    middle = unet.get("mid_block_type") is not None and unet.get("add_attention", False)
    levels = list(zip(channels, down, reversed(up), strict=True)) if down and up else []
    attention = [c for c, *blocks in levels if any(block.startswith("Attn") for block in blocks)]
    attention += channels[-1:] if middle else []
    for name, divided, whose in (
        ("norm_num_groups", channels, "of every level"),
        ("attention_head_dim", attention, "of every level with attention, the middle included,"),
        ("attention_heads", attention, "of every level with attention, the middle included,"),
        ("attn_norm_num_groups", channels[-1:] if middle else [], "of the last level"),
    ):
        divisor = unet.get(name)
        if divisor is not None and any(number % divisor for number in divided):
            raise ValueError(
                f"{name} = {divisor} must divide the channels {whose} in block_out_channels = {channels}"
            )
    embedding = unet.get("time_embedding_type", "positional")
    if embedding == "fourier" and schedule.discrete:
        raise ValueError('time_embedding_type = "fourier" takes the logarithm of t, which is 0 on a chain')
    # Exponents of the frequencies are divided by half - shift; and with one channel there is no frequency.
    shift, half = unet.get("freq_shift", 0), channels[0] // 2
    if embedding == "positional" and shift >= half:
        raise ValueError(
            f"freq_shift = {shift} must be below {half}, half the channels of the first level in "
            f"block_out_channels = {channels}"
        )
    _check_skips(down, up, {unet.get("in_channels", 3), unet.get("out_channels", 3)})


def _check_skips(down: list[str], up: list[str], channels: set[int]) -> None:
    """Check blocks with "Skip": they carry an image of 3 channels, which other blocks do not resample."""
    skips = {
        "down_block_types": ["Skip" in block for block in down[:-1]],  # the last one does not resample
        "up_block_types": ["Skip" in block for block in reversed(up)],
    }
    for name, carried in skips.items():
        if carried != sorted(carried, reverse=True):
            raise ValueError(
                f"{name} = {down if name.startswith('down') else up}: blocks with Skip must be those of the "
                "first levels, whose images are the largest"
            )
    if channels != {3} and any("Skip" in block for block in (*down, *up)):
        raise ValueError(
            f"down_block_types = {down} and up_block_types = {up}: blocks with Skip work on images of 3 "
            "channels, and without a learned variance"
        )


@torch.no_grad()
def initialise_xavier(modules: Iterable[nn.Module], ends: Iterable[nn.Module]) -> None:
    """Xavier-uniform weights and zero biases for convolutions and linear layers (Ho et al. 2020).

    `ends`, the last layers of residual branches and of the network, get the gain 1e-5, so that each branch
    contributes almost nothing at first.
    """
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in ends:
        assert isinstance(module.weight, Tensor)
        nn.init.xavier_uniform_(module.weight, gain=1e-5)


@torch.no_grad()
def _initialise(unet: "UNet2DModel", init: Literal["zero_last", "xavier"], attention_out_gain: float) -> None:
    from diffusers.models.resnet import ResnetBlock2D

    ends: list[Any] = [unet.conv_out]
    ends += [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    attention_ends = [module.to_out[0] for module in _attention(unet)]
    if init == "xavier":
        initialise_xavier(unet.modules(), ends)
        for end in attention_ends:
            nn.init.xavier_uniform_(end.weight, gain=attention_out_gain)
    else:
        for end in (*ends, *attention_ends):
            nn.init.zeros_(end.weight)
            nn.init.zeros_(end.bias)


def _set_heads(unet: "UNet2DModel", heads: int) -> None:
    """Divide every attention among so many heads; diffusers takes one width of all heads instead."""
    for module in _attention(unet):
        module.heads = module.sliceable_head_dim = heads
        module.scale = (module.inner_dim // heads) ** -0.5


def _attention(unet: "UNet2DModel") -> list[Any]:
    from diffusers.models.attention_processor import Attention

    return [module for module in unet.modules() if isinstance(module, Attention)]
