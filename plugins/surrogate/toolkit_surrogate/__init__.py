"""Surrogate diffusion: the reverse chain starts at another model's samples."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
