"""Image metrics, whose arithmetic is torch-fidelity's."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
