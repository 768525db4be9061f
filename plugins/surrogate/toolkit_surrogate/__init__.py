"""Surrogate diffusion: the reverse chain starts at another model's samples."""

from toolkit import Initialiser, Registry, hookimpl
from toolkit_surrogate.initialiser import Surrogate

toolkit_api = 1


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Initialiser, "surrogate", Surrogate)
