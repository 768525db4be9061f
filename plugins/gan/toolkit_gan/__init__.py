"""One-shot GANs: DCGAN, SNGAN and their objectives."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
