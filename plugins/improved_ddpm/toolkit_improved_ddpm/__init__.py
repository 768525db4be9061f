"""Improved DDPM: learned variances, the hybrid and the variational loss, the cosine schedule (Nichol & Dhariwal 2021)."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
