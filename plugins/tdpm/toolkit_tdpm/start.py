"""The start of a truncated chain: noise over what the generator of the run draws."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, final

import torch
from pydantic import Field
from torch import Tensor

from toolkit import (
    Chain,
    CheckpointError,
    Denoiser,
    NoiseSchedule,
    Pipeline,
    Sampler,
    SamplingError,
    SavedNetwork,
    Start,
    load,
    load_plugins,
    randn,
)

# What samples a generator alone: its one call is the whole walk.
PARTS: Mapping[str, tuple[type, dict[str, Any]]] = {
    "schedule": (NoiseSchedule, {"type": "betas", "betas": [1.0]}),
    "sampler": (Sampler, {"type": "ancestral"}),
    "start": (Start, {"type": "noise"}),
}


@final
class Truncated(Start):
    """Starts at x_t ~ q(x_t | x_0), where x_0 is drawn by the run's role "generator", and t is below t_trunc.

    It is the largest such index of the sampler's grid. For each row the generator draws first, and the noise
    is drawn after it. A saved pipeline has the generator in its own folder.

    Args:
        t_trunc: how many steps of the original chain are left, as in the objective.
        generator: the folder of a saved pipeline's generator; in a run it is left out.

    Raises:
        ValueError: if t_trunc is not below the length of the chain, or there is no generator in the folder.
    """

    calls = 1

    def __init__(
        self,
        schedule: Chain,
        t_trunc: Annotated[int, Field(ge=1)],
        generator: Path | None = None,
    ) -> None:
        if t_trunc >= schedule.num_train_timesteps:
            raise ValueError(
                f"t_trunc must be below {schedule.num_train_timesteps}, the chain's length, not {t_trunc}"
            )
        self._schedule, self.t_trunc, self.time = schedule, t_trunc, t_trunc - 1
        try:
            self._generator = None if generator is None else load(generator)
        except CheckpointError as error:
            raise ValueError(f"generator: {error}") from None

    def with_networks(self, networks: Mapping[str, SavedNetwork]) -> "Truncated":
        if "generator" not in networks:
            return self
        trained, registry = networks["generator"], load_plugins().registry
        tables = {name: registry.resolve(kind, table) for name, (kind, table) in PARTS.items()}
        # It draws what the denoiser denoises, be that pixels or latents: nothing to clamp or to decode.
        saved = trained.saved.model_copy(update={**tables, "pictures": False, "image_shape": None})
        schedule = saved.build("schedule", registry, saved.supplied(), "[start]")
        supplied = saved.supplied(schedule)
        sampler, start = (saved.build(name, registry, supplied, "[start]") for name in ("sampler", "start"))
        result, network = copy.copy(self), cast(Denoiser, trained.network)
        result._generator = Pipeline(network, schedule, sampler, start, saved, registry)
        return result

    def draw(
        self,
        shape: Sequence[int],
        generators: Sequence[torch.Generator] | None,
        t: float,
        device: torch.device,
    ) -> Tensor:
        if self._generator is None:
            raise SamplingError("start.generator: a start of type tdpm outside its run needs a folder here")
        if self._generator.device != device:
            self._generator.to(device)
        x0 = self._generator.draw(generators, shape[0])
        if t < 0:
            return x0
        return self._schedule.diffuse(x0, t, randn(shape, generators, device))

    def pipelines(self) -> Mapping[str, Pipeline]:
        return {} if self._generator is None else {"generator": self._generator}
