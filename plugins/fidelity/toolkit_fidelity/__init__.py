"""Image metrics, computed by torch-fidelity."""

from toolkit import FeatureExtractor, Metric, Registry, hookimpl
from toolkit_fidelity.extractors import VGG16, Inception
from toolkit_fidelity.metrics import FID, IS, KID, Precision, Recall


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(FeatureExtractor, "inception", Inception)
    registry.add(FeatureExtractor, "vgg16", VGG16)
    registry.add(Metric, "fid", FID)
    registry.add(Metric, "is", IS)
    registry.add(Metric, "kid", KID)
    registry.add(Metric, "precision", Precision)
    registry.add(Metric, "recall", Recall)
