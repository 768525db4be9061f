"""IWDiff: several noises a sample, weighted by their losses."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
