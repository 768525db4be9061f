"""Importance sampling of timesteps by the second moment of their losses (Nichol & Dhariwal 2021)."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
