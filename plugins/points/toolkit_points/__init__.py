"""Metrics of points, and of anything that can be laid out flat, which need no feature network."""

from toolkit import DataSource, Metric, Registry, hookimpl
from toolkit_points.data import Gaussians25
from toolkit_points.metrics import Modes25, SlicedWasserstein


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(DataSource, "gaussians25", Gaussians25)
    registry.add(Metric, "modes25", Modes25)
    registry.add(Metric, "sliced_wasserstein", SlicedWasserstein)
