"""Image metrics, and feature extractors with published weights."""

from toolkit import FeatureExtractor, Metric, Registry, hookimpl
from toolkit_fidelity.efficientnet import EfficientNetLite
from toolkit_fidelity.extractors import VGG16, Inception
from toolkit_fidelity.frechet import FID
from toolkit_fidelity.metrics import IS, KID, Precision, Recall


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(FeatureExtractor, "efficientnet_lite", EfficientNetLite)
    registry.add(FeatureExtractor, "inception", Inception)
    registry.add(FeatureExtractor, "vgg16", VGG16)
    registry.add(Metric, "fid", FID)
    registry.add(Metric, "is", IS)
    registry.add(Metric, "kid", KID)
    registry.add(Metric, "precision", Precision)
    registry.add(Metric, "recall", Recall)
