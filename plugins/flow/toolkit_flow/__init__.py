"""Flow matching with noises that are chosen for the images that they cover."""

from toolkit import Objective, Registry, hookimpl
from toolkit_flow.coupling import Coupling, Immiscible, Independent, OptimalTransport
from toolkit_flow.objective import Coupled


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "coupled", Coupled)
    registry.add(Coupling, "independent", Independent)
    registry.add(Coupling, "optimal_transport", OptimalTransport)
    registry.add(Coupling, "immiscible", Immiscible)
