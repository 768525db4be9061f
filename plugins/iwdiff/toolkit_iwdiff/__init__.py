"""IWDiff: several noises a sample, weighted by their losses."""

from toolkit import Objective, Registry, hookimpl
from toolkit_iwdiff.objective import IWDiff

toolkit_api = 1


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "iwdiff", IWDiff)
