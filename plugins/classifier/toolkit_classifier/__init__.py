"""An image classifier, trained like everything else, as a feature extractor for metrics."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
