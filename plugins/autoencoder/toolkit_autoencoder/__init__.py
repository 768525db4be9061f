"""Autoencoders for latent diffusion, which are variational autoencoders that sample as well."""

from toolkit import Denoiser, Objective, Registry, hookimpl
from toolkit_autoencoder.discriminator import Discriminator, PatchDiscriminator
from toolkit_autoencoder.network import KLAutoencoder
from toolkit_autoencoder.objective import Autoencoding


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "autoencoder_kl", KLAutoencoder)  # an Autoencoder, filed with the networks
    registry.add(Discriminator, "patch_discriminator", PatchDiscriminator)
    registry.add(Objective, "autoencoder", Autoencoding)
