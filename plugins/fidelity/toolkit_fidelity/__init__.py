"""Image metrics, and feature extractors with published weights."""

from toolkit import FeatureExtractor, Metric, Registry, hookimpl
from toolkit_fidelity.efficientnet import EfficientNetLite
from toolkit_fidelity.frechet import FID, FIDInfinity
from toolkit_fidelity.inception import Inception
from toolkit_fidelity.inception_score import IS
from toolkit_fidelity.kid import KID
from toolkit_fidelity.memorisation import Memorisation
from toolkit_fidelity.neighbours import Coverage, Density, Precision, Recall
from toolkit_fidelity.vgg import VGG16


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(FeatureExtractor, "efficientnet_lite", EfficientNetLite)
    registry.add(FeatureExtractor, "inception", Inception)
    registry.add(FeatureExtractor, "vgg16", VGG16)
    registry.add(Metric, "coverage", Coverage)
    registry.add(Metric, "density", Density)
    registry.add(Metric, "fid", FID)
    registry.add(Metric, "fid_infinity", FIDInfinity)
    registry.add(Metric, "is", IS)
    registry.add(Metric, "kid", KID)
    registry.add(Metric, "memorisation", Memorisation)
    registry.add(Metric, "precision", Precision)
    registry.add(Metric, "recall", Recall)
