"""The authors' generator checkpoints as pipelines."""

from collections.abc import Mapping
from typing import Literal, final

import torch
from torch import Tensor, nn

from toolkit import Importer

WIDE = {"block_out_channels": [64, 64, 128, 128, 256, 256], "mapping_layers": 3}
PRESETS = {  # T, the side of the images, and what differs from the generator's defaults
    "cifar10": (4, 32, {}),
    "celebahq256": (2, 256, WIDE),
}


@final
class OfficialGenerator(Importer):
    """A netG_<epoch>.pth of the authors' code (Xiao et al. 2022), which says nothing of its architecture.

    Args:
        preset: the run that it is from; the authors released these two.
    """

    def __init__(self, preset: Literal["cifar10", "celebahq256"]) -> None:
        steps, side, options = PRESETS[preset]
        self.preset = preset
        self.sample_shape = (3, side, side)
        self.tables = {
            "schedule": {"type": "vp_sde", "num_train_timesteps": steps},
            "network": {"type": "ddgan_generator", **options},
            "sampler": {"type": "ancestral"},
            "start": {"type": "noise"},
        }

    @torch.no_grad()
    def fill(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        from toolkit_ddgan.official import official_parameters  # imports diffusers, which takes seconds

        ours = official_parameters(network.model)
        theirs = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        if len(theirs) < len(state):
            raise ValueError("has a tensor twice, with and without 'module.' before its name")
        if not theirs.keys() & ours.keys():
            raise ValueError("is no generator of the authors' code: none of its tensors has a known name")
        for name in sorted(ours.keys() ^ theirs.keys()):
            has = "has no tensor" if name in ours else "has a further tensor"
            raise ValueError(f"is not of preset {self.preset!r}: it {has} {name!r}")
        for name, tensor in theirs.items():
            if tensor.shape != ours[name].shape:
                shapes = f"{tuple(tensor.shape)} there and {tuple(ours[name].shape)} here"
                raise ValueError(f"is not of preset {self.preset!r}: {name!r} is {shapes}")
            if not tensor.is_floating_point() or tensor.layout != torch.strided:
                raise ValueError(
                    f"{name!r} is of {tensor.dtype} in {tensor.layout}, not of floating-point numbers"
                )
        for name, tensor in theirs.items():
            ours[name].copy_(tensor)
