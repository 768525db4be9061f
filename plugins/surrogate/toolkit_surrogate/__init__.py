"""Surrogate diffusion: the reverse chain starts at another model's samples."""

from toolkit import Registry, Start, hookimpl
from toolkit_surrogate.start import Surrogate


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Start, "surrogate", Surrogate)
