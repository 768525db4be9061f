"""The authors' generator checkpoints as pipelines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from toolkit import Importer, Positive, Saved, copy_weights, published_settings

ATTENTION_SIDE = 16  # in pixels, of the level that has attention in all published runs


@dataclass(frozen=True)
class Shapes:
    """What the shapes of a checkpoint tell of its generator; `attention` are numbers of levels."""

    channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 256, 256)
    layers_per_block: int = 2
    attention: tuple[int, ...] = (1,)
    latent_width: int = 100
    mapping_width: int = 256
    mapping_layers: int = 4


LARGE = Shapes(block_out_channels=(64, 64, 128, 128, 256, 256), attention=(4,), mapping_layers=3)
RUNS: Mapping[str, tuple[Shapes, Mapping[str, int]]] = {
    "cifar10": (Shapes(), {"num_train_timesteps": 4}),
    "celebahq256": (LARGE, {"num_train_timesteps": 2}),
    "lsun_church256": (LARGE, {"num_train_timesteps": 4}),
}


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Read the shapes of a checkpoint, whose modules are numbered in the order of the forward pass.

    Raises:
        ValueError: if its tensors are not named as those of a generator.
    """
    steps, width = [], []  # of the way down and all that follows: R residual, A attention, P end of a level
    for i in range(3, len(state)):
        if (conv := state.get(f"all_modules.{i}.Conv_0.weight")) is not None:
            steps.append("R")
            width.append(conv.shape[0])
        elif f"all_modules.{i}.NIN_0.W" in state:
            steps.append("A")
        elif f"all_modules.{i}.Conv2d_0.weight" in state:
            steps.append("P")
    *levels, rest = "".join(steps).split("P")
    mapping = [name for name in state if name.startswith("z_transform.") and name.endswith(".weight")]
    layers = levels[0].count("R") - 1 if levels else 0  # the last one of a level halves the image
    if layers < 1 or "z_transform.1.weight" not in mapping or "all_modules.2.weight" not in state:
        raise ValueError("is no generator of the authors' code: its tensors have other names")
    attention = [level for level, steps_there in enumerate(levels) if "A" in steps_there]
    if rest.startswith("RA" * layers + "RAR"):  # the middle is RAR
        attention.append(len(levels))
    to_style = state["z_transform.1.weight"]
    return Shapes(
        channels=state["all_modules.2.weight"].shape[1],
        block_out_channels=tuple(width[: (len(levels) + 1) * (layers + 1) : layers + 1]),
        layers_per_block=layers,
        attention=tuple(attention),
        latent_width=to_style.shape[1],
        mapping_width=to_style.shape[0],
        mapping_layers=len(mapping) - 1,
    )


@final
class OfficialGenerator(Importer):
    """A netG_<epoch>.pth of the authors' code (Xiao et al. 2022), of any widths.

    Its shapes tell the network, but neither T nor the size of the images.

    Args:
        preset: the published run that it is from, which must have these shapes. By default the one that has,
            if there is one; those of the two runs at 256x256 are the same.
        num_train_timesteps: T, by default that of the published run.
        size: side of the images; by default such that attention is at 16 pixels, as in all published runs.
    """

    def __init__(
        self,
        preset: Literal["cifar10", "celebahq256", "lsun_church256"] | None = None,
        num_train_timesteps: Positive | None = None,
        size: Positive | None = None,
    ) -> None:
        self.preset, self.num_train_timesteps, self.size = preset, num_train_timesteps, size

    def describe(self, state: Mapping[str, Tensor]) -> Saved:
        shapes = shapes_of(state)
        side = self.size or self._side(shapes)
        given = {"num_train_timesteps": self.num_train_timesteps}
        network = {
            "type": "ddgan_generator",
            "block_out_channels": list(shapes.block_out_channels),
            "layers_per_block": shapes.layers_per_block,
            "attention_sides": [side >> level for level in shapes.attention],
            "latent_width": shapes.latent_width,
            "mapping_width": shapes.mapping_width,
            "mapping_layers": shapes.mapping_layers,
        }
        return Saved(
            sample_shape=(shapes.channels, side, side),
            num_classes=None,
            schedule={"type": "vp_sde", **published_settings(shapes, RUNS, self.preset, given)},
            network=network,
            sampler={"type": "ancestral"},
            start={"type": "noise"},
        )

    def _side(self, shapes: Shapes) -> int:
        if len(shapes.attention) != 1:
            raise ValueError(
                f"has attention at {len(shapes.attention)} levels, which leaves the size of its images open: "
                "give --set size=PIXELS"
            )
        return ATTENTION_SIDE << shapes.attention[0]

    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        from toolkit_ddgan.official import official_parameters  # imports diffusers, which takes seconds

        copy_weights(state, official_parameters(network.model))
