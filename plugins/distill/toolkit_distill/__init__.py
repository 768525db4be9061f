"""Distribution matching distillation: students that sample by one network call, or by few."""

from toolkit import Objective, Registry, Sampler, hookimpl
from toolkit_distill.discriminator import ConvDiscriminator, DiffusedDiscriminator
from toolkit_distill.objective import DMD
from toolkit_distill.sampler import FewStep


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "dmd", DMD)
    registry.add(DiffusedDiscriminator, "dmd_discriminator", ConvDiscriminator)
    registry.add(Sampler, "few_step", FewStep)
