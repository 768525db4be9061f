"""Metrics of points, and of anything that can be laid out flat, which need no feature network."""

from toolkit import Metric, Registry, hookimpl
from toolkit_points.metrics import Modes25, SlicedWasserstein

toolkit_api = 1


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Metric, "modes25", Modes25)
    registry.add(Metric, "sliced_wasserstein", SlicedWasserstein)
