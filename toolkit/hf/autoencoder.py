"""diffusers' autoencoders as encoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.start import Saveable
from toolkit.errors import CheckpointError
from toolkit.files import read_json
from toolkit.hf.folder import refuse_values, state_of
from toolkit.pipeline.folder import fill

KINDS = ("AutoencoderKL", "AutoencoderTiny")
Factor = Annotated[float, Field(gt=0)]


@final
class DiffusersAutoencoder(Encoder):
    """An AutoencoderKL or AutoencoderTiny saved by diffusers; latents are the mean of its code times a scale.

    Args:
        path: its folder, with config.json and safetensors.
        scale: multiplies latents, to give them a standard deviation near 1; None takes the scaling_factor in
            config.json, or 1.

    Raises:
        CheckpointError: if there is no such model in the folder, or it is damaged.
    """

    def __init__(self, path: Path, scale: Factor | None = None) -> None:
        super().__init__()
        config = read_json(path / "config.json")
        if (kind := config.get("_class_name")) not in KINDS:
            raise CheckpointError(f"{path / 'config.json'}: is of a {kind}, and not of {' or '.join(KINDS)}")
        refuse_values(config, {"scaling_factor": Factor}, path / "config.json", optional=("scaling_factor",))
        state = state_of(path)
        import diffusers

        try:  # from_pretrained would draw what the file lacks at random, and follow a quantization_config
            self.model: Any = getattr(diffusers, kind).from_config(config).eval()
        except Exception as error:  # whatever a damaged config makes of it
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: cannot be read: {type(error).__name__}: {reason}") from error
        fill(self.model, state, path, CheckpointError)
        self.scale = float(scale or config.get("scaling_factor") or 1.0)

    @torch.no_grad()
    def latent_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        channels = int(self.model.config.in_channels)
        if len(image_shape) != 3 or image_shape[0] != channels:
            raise ValueError(f"encodes images of {channels} channels, not data of shape {tuple(image_shape)}")
        device = next(self.model.parameters()).device
        try:
            latent = self.encode(torch.zeros(1, *image_shape, device=device))
            image = self.decode(latent)
        except RuntimeError as error:
            raise ValueError(f"cannot encode images of shape {tuple(image_shape)}: {error}") from error
        if tuple(image.shape[1:]) != tuple(image_shape):
            shapes = f"{tuple(image_shape)} come back as {tuple(image.shape[1:])}"
            raise ValueError(f"images of shape {shapes}: their sides must be multiples of its factor")
        return tuple(latent.shape[1:])

    def encode(self, images: Tensor) -> Tensor:
        out = self.model.encode(images)
        latents: Tensor = out.latent_dist.mode() if "latent_dist" in out else out.latents
        return latents.float() * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.model.decode(latents / self.scale).sample
        return images.float()

    def folders(self) -> Mapping[str, Saveable]:
        return {"path": self.model}


def write_untrained(folder: Path) -> None:
    """Write the smallest autoencoder, for checks of encoders: an AutoencoderTiny of one channel, as drawn."""
    import diffusers

    model = diffusers.AutoencoderTiny(
        in_channels=1, out_channels=1, latent_channels=2, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    model.save_pretrained(folder)
