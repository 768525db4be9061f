"""Denoising diffusion GANs (Xiao et al. 2022)."""

from toolkit import DataSource, Denoiser, Importer, Objective, Registry, hookimpl
from toolkit_ddgan.data import StackedDigits
from toolkit_ddgan.discriminator import LargeDiscriminator, SmallDiscriminator, TransitionDiscriminator
from toolkit_ddgan.generator import LightGenerator, PublishedGenerator
from toolkit_ddgan.importer import OfficialGenerator
from toolkit_ddgan.objective import DDGAN
from toolkit_ddgan.points import MLPDiscriminator, MLPGenerator
from toolkit_ddgan.watch import Watch

_watch = Watch()  # one a process, as there is one run
toolkit_run_started = _watch.toolkit_run_started
toolkit_step_done = _watch.toolkit_step_done
toolkit_run_ended = _watch.toolkit_run_ended


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(DataSource, "stacked_mnist", StackedDigits)
    registry.add(Denoiser, "ddgan_generator", PublishedGenerator)
    registry.add(Denoiser, "ddgan_light_generator", LightGenerator)
    registry.add(Denoiser, "ddgan_mlp_generator", MLPGenerator)
    registry.add(TransitionDiscriminator, "ddgan_small_discriminator", SmallDiscriminator)
    registry.add(TransitionDiscriminator, "ddgan_large_discriminator", LargeDiscriminator)
    registry.add(TransitionDiscriminator, "ddgan_mlp_discriminator", MLPDiscriminator)
    registry.add(Objective, "ddgan", DDGAN)
    registry.add(Importer, "ddgan", OfficialGenerator)
