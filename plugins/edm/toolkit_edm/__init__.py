"""The design of Karras et al. (2022): preconditioned networks, and Heun's method with churn."""

from toolkit import Denoiser, Registry, Sampler, hookimpl
from toolkit_edm.denoiser import Preconditioned
from toolkit_edm.sampler import ChurnedHeun


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "edm_preconditioned", Preconditioned)
    registry.add(Sampler, "edm_heun", ChurnedHeun)
