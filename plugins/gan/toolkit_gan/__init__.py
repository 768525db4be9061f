"""One-shot GANs: DCGAN, SNGAN, SAGAN, progressive growing, and their objectives."""

from toolkit import Denoiser, Objective, Registry, hookimpl
from toolkit_gan.augmentation import Augmentation, Diffusion
from toolkit_gan.dcgan import DCGANDiscriminator, DCGANGenerator
from toolkit_gan.growth import ProgressiveGAN
from toolkit_gan.interfaces import Discriminator
from toolkit_gan.objective import GAN
from toolkit_gan.points import MLPDiscriminator, MLPGenerator
from toolkit_gan.progressive import ProgressiveDiscriminator, ProgressiveGenerator
from toolkit_gan.sngan import SNGANDiscriminator, SNGANGenerator


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "dcgan_generator", DCGANGenerator)
    registry.add(Discriminator, "dcgan_discriminator", DCGANDiscriminator)
    registry.add(Denoiser, "sngan_generator", SNGANGenerator)
    registry.add(Discriminator, "sngan_discriminator", SNGANDiscriminator)
    registry.add(Denoiser, "progressive_generator", ProgressiveGenerator)
    registry.add(Discriminator, "progressive_discriminator", ProgressiveDiscriminator)
    registry.add(Denoiser, "gan_mlp_generator", MLPGenerator)
    registry.add(Discriminator, "gan_mlp_discriminator", MLPDiscriminator)
    registry.add(Augmentation, "diffusion", Diffusion)
    registry.add(Objective, "gan", GAN)
    registry.add(Objective, "progressive_gan", ProgressiveGAN)
