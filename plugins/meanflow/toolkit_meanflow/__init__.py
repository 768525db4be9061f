"""Mean flows for generation in one step (Geng et al. 2025)."""

from toolkit import Denoiser, Objective, Registry, hookimpl
from toolkit_meanflow.network import FlowMapMLP
from toolkit_meanflow.objective import MeanFlow


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "meanflow", MeanFlow)
    registry.add(Denoiser, "flow_map_mlp", FlowMapMLP)
