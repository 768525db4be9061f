"""Consistency models: data in one network call, learned alone or from a teacher (Song et al. 2023)."""

from toolkit import Denoiser, Objective, Registry, ScalarSchedule, hookimpl
from toolkit_consistency.curriculum import Doubling
from toolkit_consistency.denoiser import ConsistencyPreconditioned
from toolkit_consistency.distillation import ConsistencyDistillation
from toolkit_consistency.training import ConsistencyTraining


@hookimpl
def toolkit_components(registry: Registry) -> None:
    registry.add(Denoiser, "consistency_preconditioned", ConsistencyPreconditioned)
    registry.add(Objective, "consistency_training", ConsistencyTraining)
    registry.add(Objective, "consistency_distillation", ConsistencyDistillation)
    registry.add(ScalarSchedule, "doubling", Doubling)
