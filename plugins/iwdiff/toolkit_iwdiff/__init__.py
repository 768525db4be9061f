"""IWDiff: several noises a sample, weighted by their losses."""

from toolkit import Objective, Registry, hookimpl
from toolkit_iwdiff.objective import IWDiff


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "iwdiff", IWDiff)
