"""An image classifier, trained like everything else, as a feature extractor for metrics."""

from toolkit import FeatureExtractor, Objective, Registry, hookimpl
from toolkit_classifier.extractor import ClassifierFeatures
from toolkit_classifier.network import Classifier, ConvolutionalClassifier
from toolkit_classifier.objective import Classification


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Classifier, "classifier_cnn", ConvolutionalClassifier)
    registry.add(Objective, "classifier", Classification)
    registry.add(FeatureExtractor, "classifier", ClassifierFeatures)
