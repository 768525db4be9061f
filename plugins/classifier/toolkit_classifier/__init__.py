"""An image classifier, trained like everything else, as a feature extractor for metrics."""

from toolkit import FeatureExtractor, Metric, Objective, Registry, hookimpl
from toolkit_classifier.extractor import ClassifierFeatures
from toolkit_classifier.modes import Modes
from toolkit_classifier.network import Classifier, ConvolutionalClassifier
from toolkit_classifier.objective import Classification
from toolkit_classifier.stacked import StackedFeatures


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Classifier, "classifier_cnn", ConvolutionalClassifier)
    registry.add(Objective, "classifier", Classification)
    registry.add(FeatureExtractor, "classifier", ClassifierFeatures)
    registry.add(FeatureExtractor, "stacked_classifier", StackedFeatures)
    registry.add(Metric, "modes", Modes)
