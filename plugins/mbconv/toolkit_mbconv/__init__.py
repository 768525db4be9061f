"""UNets of MBConv blocks with squeeze and excitation."""

from toolkit import Registry, hookimpl


@hookimpl
def toolkit_components(registry: Registry) -> None:
    pass
