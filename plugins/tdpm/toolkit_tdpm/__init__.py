"""Truncated diffusion (Zheng et al. 2023): a generator draws the start of a short chain."""

from toolkit import Objective, Registry, Start, hookimpl
from toolkit_tdpm.objective import TDPM
from toolkit_tdpm.start import Truncated


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Objective, "tdpm", TDPM)
    registry.add(Start, "tdpm", Truncated)
