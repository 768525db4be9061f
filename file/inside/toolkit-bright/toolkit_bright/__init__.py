"""The objective bright: say here in a sentence what the method is, and whose."""

from toolkit import Objective, Registry, hookimpl

from toolkit_bright.objective import BrightObjective


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "bright", BrightObjective)
