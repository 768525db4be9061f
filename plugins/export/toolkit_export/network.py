"""A part of a pipeline as a function of tensors, which is what can be exported, and its description."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toolkit import Denoiser, Encoder, Pipeline, RunError, generators_for


@dataclass(frozen=True)
class Exportable:
    """A network that takes tensors by name and gives one.

    Attributes:
        name: what it is, for messages.
        module: in eval mode, on the CPU.
        inputs: examples of its inputs for (n, grow): n rows, pictures `grow` times as high and as wide.
        output: the name of what it gives.
        notes: what whoever uses it has to know.
    """

    name: str
    module: nn.Module
    inputs: Callable[[int, int], Mapping[str, Tensor]]
    output: str
    notes: Sequence[str] = ()


class Estimate(nn.Module):
    """A denoiser's x_0, not clipped."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        return self.denoiser(x_t, t, s=s, label=label, latent=latent).x0  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """An encoder's images of latents."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.encoder.decode(latents)


def part_of(pipeline: Pipeline, part: Literal["denoiser", "decoder"]) -> Exportable:
    """The denoiser, or the decoder of a pipeline whose denoiser sees latents.

    Raises:
        RunError: if it has none, or begins its samples by another network.
    """
    if part == "decoder":
        if pipeline.encoder is None:
            raise RunError("--part decoder: this model has no [encoder], so that its denoiser makes images")
        name = type(pipeline.encoder).__name__
        return Exportable(name, Decoder(pipeline.encoder), _latents_of(pipeline), "images")
    start = pipeline.table("start") or {}
    if start.get("type") != "noise":
        raise RunError(
            f"its samples begin with the start {start.get('type')!r}, which is not exported: "
            "toolkit sample --start noise --save FOLDER makes a model that begins with noise, if it can"
        )
    notes = []
    if pipeline.guidance is not None:
        notes.append(
            f"the guidance {(pipeline.table('guidance') or {}).get('type')!r} is not in the file: call the "
            "network for each of its parts, and combine them"
        )
    if pipeline.encoder is not None:
        notes.append("it makes latents: --part decoder exports what makes images of them")
    name = type(pipeline.denoiser).__name__
    return Exportable(name, Estimate(pipeline.denoiser), _inputs_of(pipeline), "x0", notes)


def _latents_of(pipeline: Pipeline) -> Callable[[int, int], Mapping[str, Tensor]]:
    return lambda n, grow: {"latents": _noise(pipeline, n, grow)}


def _inputs_of(pipeline: Pipeline) -> Callable[[int, int], Mapping[str, Tensor]]:
    denoiser, schedule = pipeline.denoiser, pipeline.schedule

    def inputs(n: int, grow: int) -> Mapping[str, Tensor]:
        dtype = torch.int64 if schedule.discrete else torch.float32
        # Times from all over the walk, and where each leads.
        steps = torch.linspace(0, len(pipeline.times) - 2, n).round().long()
        times = torch.tensor(pipeline.times, dtype=torch.float64)
        given = {"x_t": schedule.prior_std * _noise(pipeline, n, grow), "t": times[steps].to(dtype)}
        if denoiser.flow_map:
            given["s"] = times[steps + 1].to(dtype)
        if denoiser.conditional:
            given["label"] = torch.arange(n) % int(pipeline.saved.num_classes or 1)
        latent = denoiser.latent(n, generators_for(0, 0, n, torch.device("cpu")))
        return given if latent is None else {**given, "latent": latent}

    return inputs


def _noise(pipeline: Pipeline, n: int, grow: int) -> Tensor:
    shape = list(pipeline.sample_shape)
    if grow > 1:
        shape[-2:] = [side * grow for side in shape[-2:]]
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


def axes(tensor: Tensor, any_size: bool) -> list[int | str]:
    """The sizes of an input, and names for those that are open."""
    if any_size and tensor.ndim == 4:
        return ["n", tensor.shape[1], "height", "width"]
    return ["n", *tensor.shape[1:]]


def describe(pipeline: Pipeline, network: Exportable, kind: str, any_size: bool) -> dict[str, Any]:
    """What goes in and comes out, and the walk of the model's own sampler: times, alpha and sigma there."""

    inputs = {
        name: {"shape": axes(tensor, any_size), "type": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in network.inputs(2, 1).items()
    }
    schedule = pipeline.schedule
    times = torch.tensor(pipeline.times, dtype=torch.int64 if schedule.discrete else torch.float64)
    walk = {
        "times": times.tolist(),
        "alpha": schedule.alpha(times).tolist(),
        "sigma": schedule.sigma(times).tolist(),
        "prior_std": schedule.prior_std,
        "sampler": pipeline.table("sampler"),
    }
    return {
        "format": kind,
        "network": network.name,
        "toolkit": importlib.metadata.version("diffusion-toolkit"),
        "model": pipeline.saved.model,
        "inputs": inputs,
        "output": network.output,
        **({"walk": walk} if network.output == "x0" else {}),
        **({"classes": pipeline.saved.class_names} if pipeline.saved.class_names else {}),
    }
