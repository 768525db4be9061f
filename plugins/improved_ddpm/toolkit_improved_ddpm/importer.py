"""The authors' checkpoints as pipelines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, final

from torch import Tensor, nn

from toolkit import Importer, Positive, Saved, copy_weights, published_settings

ATTENTION_SIDE = 16  # in pixels, of the first level that has attention in all published runs
Schedule = Literal["cosine", "linear"]

# Our layers of a block -> theirs.
RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


@dataclass(frozen=True)
class Shapes:
    """What the shapes of a checkpoint tell of its network; `attention` are numbers of levels."""

    channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 256, 256)
    layers_per_block: int = 3
    attention: tuple[int, ...] = (1, 2)
    learned_variance: bool = True
    scale_shift: bool = True
    num_classes: int | None = None


SMALL = {"num_train_timesteps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True, "num_heads": 4}
RUNS: Mapping[str, tuple[Shapes, Mapping[str, Any]]] = {
    "cifar10": (Shapes(), SMALL),
    "imagenet64": (Shapes(block_out_channels=(128, 256, 384, 512), attention=(2, 3)), SMALL),
    "imagenet64_conditional": (
        Shapes(block_out_channels=(192, 384, 576, 768), attention=(2, 3), num_classes=1000),
        {**SMALL, "rescale_timesteps": False},
    ),
    "lsun_bedroom256": (
        Shapes(
            block_out_channels=(128, 128, 256, 256, 512, 512),
            layers_per_block=2,
            attention=(4,),
            scale_shift=False,
        ),
        {"num_train_timesteps": 1000, "noise_schedule": "linear", "rescale_timesteps": False, "num_heads": 1},
    ),
}


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Read the shapes of a checkpoint.

    Raises:
        ValueError: if its tensors are not named as those of the authors' UNet.
    """
    widths: list[list[int]] = [[]]  # of the residual blocks of each level on the way down
    attention = []
    for i in range(1, len(state)):
        if f"input_blocks.{i}.0.op.weight" in state:
            widths.append([])
        elif (conv := state.get(f"input_blocks.{i}.0.in_layers.2.weight")) is not None:
            widths[-1].append(conv.shape[0])
            if f"input_blocks.{i}.1.qkv.weight" in state and len(widths) - 1 not in attention:
                attention.append(len(widths) - 1)
    needed = ("input_blocks.0.0.weight", "input_blocks.1.0.emb_layers.1.weight", "out.2.weight")
    if not all(widths) or any(name not in state for name in needed):
        raise ValueError("is no UNet of the authors' code: its tensors have other names")
    first, embedding, last = (state[name].shape for name in needed)
    labels = state.get("label_emb.weight")
    return Shapes(
        channels=first[1],
        block_out_channels=tuple(level[0] for level in widths),
        layers_per_block=len(widths[0]),
        attention=tuple(attention),
        learned_variance=last[0] == 2 * first[1],
        scale_shift=embedding[0] == 2 * widths[0][0],
        num_classes=None if labels is None else labels.shape[0],
    )


@final
class OfficialUNet(Importer):
    """A released file, or an ema_<rate>_<step>.pt of the authors' code (Nichol & Dhariwal 2021).

    Its shapes tell the network, but for the number of heads, and nothing of the chain. Of that, what is not
    given is as in the published run with these shapes.

    Args:
        preset: the published run that it is from, which must have these shapes; by default the one that has.
        num_train_timesteps: T (the authors' diffusion_steps).
        noise_schedule: of the chain; "linear" is from 0.1 / T to 20 / T.
        rescale_timesteps: the network sees 1000 t / T, which is the default of the authors' code.
        num_heads: of every attention.
        size: side of the images; by default such that attention begins at 16 pixels, as in all these.
    """

    def __init__(
        self,
        preset: Literal["cifar10", "imagenet64", "imagenet64_conditional", "lsun_bedroom256"] | None = None,
        num_train_timesteps: Positive | None = None,
        noise_schedule: Schedule | None = None,
        rescale_timesteps: bool | None = None,
        num_heads: Positive | None = None,
        size: Positive | None = None,
    ) -> None:
        self.preset, self.size = preset, size
        self.given = {
            "num_train_timesteps": num_train_timesteps, "noise_schedule": noise_schedule,
            "rescale_timesteps": rescale_timesteps, "num_heads": num_heads,
        }  # fmt: skip

    def describe(self, state: Mapping[str, Tensor]) -> Saved:
        shapes = shapes_of(state)
        settings = published_settings(shapes, RUNS, self.preset, self.given)
        steps = settings["num_train_timesteps"]
        attend = [level in shapes.attention for level in range(len(shapes.block_out_channels))]
        side = self.size or self._side(shapes)
        network = {
            "type": "unet",
            "learned_variance": shapes.learned_variance,
            "conditional": shapes.num_classes is not None,
            "time_scale": 1000 / steps if settings["rescale_timesteps"] else 1.0,
            "attention_heads": settings["num_heads"],
            "block_out_channels": list(shapes.block_out_channels),
            "down_block_types": [f"{'Attn' * here}DownBlock2D" for here in attend],
            "up_block_types": [f"{'Attn' * here}UpBlock2D" for here in reversed(attend)],
            "layers_per_block": shapes.layers_per_block,
            "resnet_time_scale_shift": "scale_shift" if shapes.scale_shift else "default",
            "attn_norm_num_groups": 32,
        }
        chain = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
        return Saved(
            sample_shape=(shapes.channels, side, side),
            num_classes=shapes.num_classes,
            schedule={"type": "linear", "num_train_timesteps": steps, **chain}
            if settings["noise_schedule"] == "linear"
            else {"type": "cosine_betas", "num_train_timesteps": steps},
            network=network,
            # Without a learned variance their scripts take the large one; --steps are then spaced as theirs.
            sampler={"type": "ancestral", "variance": "fixed_large", "clip": True, "spacing": "strided"},
            start={"type": "noise"},
        )

    def _side(self, shapes: Shapes) -> int:
        if not shapes.attention:
            raise ValueError(
                "has no attention, which would tell the size of its images: give --set size=PIXELS"
            )
        return ATTENTION_SIDE << shapes.attention[0]

    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        theirs = dict(state)
        for name in [name for name in state if ".qkv." in name]:
            # Theirs are fused: for each head its queries, keys and values.
            parts = theirs.pop(name).unflatten(0, (network.attention_heads, 3, -1)).unbind(1)
            for letter, part in zip("qkv", parts, strict=True):
                theirs[name.replace(".qkv.", f".{letter}.")] = part.flatten(0, 1)
        copy_weights(theirs, official_parameters(network.model))


def official_parameters(unet: Any) -> dict[str, Tensor]:
    """Parameters of a UNet2DModel by the authors' names, apart for q, k and v, and in their layout: views."""
    result: dict[str, Tensor] = {}
    for name, module, parts in official_modules(unet):
        for ours, parameter in module.named_parameters():
            part, _, leaf = ours.rpartition(".")
            # What is a convolution over one position there, a linear layer is here.
            is_matrix = parts is ATTENTION and parameter.ndim == 2
            full = ".".join(filter(None, (name, parts.get(part, part), leaf)))
            result[full] = parameter.unsqueeze(2) if is_matrix else parameter
    return result


def official_modules(unet: Any) -> Iterator[tuple[str, nn.Module, Mapping[str, str]]]:
    """The modules of a UNet2DModel by the authors' names, each with the names of its parts."""
    yield "time_embed.0", unet.time_embedding.linear_1, {}
    yield "time_embed.2", unet.time_embedding.linear_2, {}
    if unet.class_embedding is not None:
        yield "label_emb", unet.class_embedding, {}
    yield "input_blocks.0.0", unet.conv_in, {}
    i = 1
    for down in unet.down_blocks:
        for resnet, attention in zip_longest(down.resnets, getattr(down, "attentions", ())):
            yield f"input_blocks.{i}.0", resnet, RESIDUAL
            if attention is not None:
                yield f"input_blocks.{i}.1", attention, ATTENTION
            i += 1
        for resample in down.downsamplers or ():
            yield f"input_blocks.{i}.0.op", resample.conv, {}
            i += 1
    before, after = unet.mid_block.resnets
    yield "middle_block.0", before, RESIDUAL
    yield "middle_block.1", unet.mid_block.attentions[0], ATTENTION
    yield "middle_block.2", after, RESIDUAL
    i = 0
    for up in unet.up_blocks:
        attentions = getattr(up, "attentions", ())
        for resnet, attention in zip_longest(up.resnets, attentions):
            yield f"output_blocks.{i}.0", resnet, RESIDUAL
            if attention is not None:
                yield f"output_blocks.{i}.1", attention, ATTENTION
            i += 1
        for resample in up.upsamplers or ():
            yield f"output_blocks.{i - 1}.{2 if attentions else 1}.conv", resample.conv, {}
    yield "out.0", unet.conv_norm_out, {}
    yield "out.2", unet.conv_out, {}
