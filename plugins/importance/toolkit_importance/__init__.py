"""Importance sampling of timesteps by the second moment of their losses (Nichol & Dhariwal 2021)."""

from toolkit import Registry, TimestepSampler, hookimpl
from toolkit_importance.second_moment import SecondMoment


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(TimestepSampler, "second_moment", SecondMoment)
