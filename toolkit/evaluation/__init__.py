"""Scores of trained models and of images; the metrics themselves come from plugins."""

from toolkit.evaluation.features import FeatureExtractor
from toolkit.evaluation.metric import Metric
from toolkit.registry.hookspecs import hookimpl
from toolkit.registry.registry import Registry


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.declare(Metric, FeatureExtractor)
