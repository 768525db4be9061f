"""Importance sampling of timesteps by the second moment of their losses (Nichol & Dhariwal 2021)."""

from toolkit import Registry, Timesteps, hookimpl
from toolkit_importance.second_moment import SecondMoment

toolkit_api = 1


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Timesteps, "second_moment", SecondMoment)
