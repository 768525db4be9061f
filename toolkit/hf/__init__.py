"""Everything that depends on diffusers: its UNet, schedulers and autoencoders, and its saved folders."""

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.encoder import Encoder
from toolkit.diffusion.sampler import Sampler
from toolkit.hf.autoencoder import DiffusersAutoencoder
from toolkit.hf.folder import DiffusersLayout
from toolkit.hf.schedulers import DiffusersSampler
from toolkit.hf.unet import UNet
from toolkit.pipeline.folder import Layout
from toolkit.registry.hookspecs import hookimpl
from toolkit.registry.registry import Registry


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "unet", UNet)
    registry.add(Sampler, "diffusers", DiffusersSampler)
    registry.add(Encoder, "diffusers_autoencoder", DiffusersAutoencoder)
    registry.add(Layout, "diffusers", DiffusersLayout)
