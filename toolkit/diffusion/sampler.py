"""Samplers: the formula of one step down a path. The loop around it is `walk`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, Protocol, overload

import torch
from torch import Tensor

from toolkit.diffusion.denoiser import Denoiser
from toolkit.diffusion.guidance import Ask, Guidance
from toolkit.diffusion.prediction import Prediction
from toolkit.diffusion.schedule import NoiseSchedule, Steps
from toolkit.errors import SamplingError
from toolkit.randomness import randn
from toolkit.registry.signature import Positive


@dataclass(frozen=True)
class GridOptions:
    """The times at which every sampler calls its network.

    Args:
        num_inference_steps: steps down the path; for most samplers also the network calls. On a chain also a
            list, one number for each of as many equal sections. None takes the path's own number.
        spacing: which times. On a chain: "leading" (the default), "linspace" or "trailing" as in diffusers,
            "strided" or "ddim" as in Nichol & Dhariwal (2021). On continuous paths: "uniform" or "karras".
    """

    num_inference_steps: Positive | list[Positive] | None = None
    spacing: str | None = None


class Noise:
    """Fresh N(0, I) of the shape of `like` at each call; row i from `generators[i]` alone, if given."""

    def __init__(self, like: Tensor, generators: Sequence[torch.Generator] | None) -> None:
        self._shape, self._device, self.generators = like.shape, like.device, generators

    def __call__(self) -> Tensor:
        return randn(self._shape, self.generators, self._device)


class Denoise(Protocol):
    """Calls the network of a walk."""

    def __call__(self, x: Tensor, t: float, s: float | None = None) -> Prediction:
        """The prediction from x (B, ...) at t for a step to s, by default the end of the walk's current step.

        A flow map answers for the whole way to s: a method that needs the slope at t passes s = t.
        """


Step = Callable[[Denoise, Tensor, float, float, Noise], Tensor]


class Sampler(ABC):
    """Leads from noise to data along a path, by the formula of one step."""

    @abstractmethod
    def stepper(self) -> Step:
        """A function (denoise, x_t, t, s, noise) -> x_s, for one walk.

        `denoise(x, t)` calls the network on x (B, ...) at the number t for the step to s, with the label,
        guidance and latent of the walk; `denoise(x, t, t)` asks for the slope at t instead. `noise()` draws
        N(0, I) of the shape of x_t. s is the next time; in the last step it is the path's `clean`. Tensors
        are float32 on the network's device. A multistep method keeps its state in the function's closure:
        every walk gets a new function.
        """

    def grid(self, schedule: NoiseSchedule, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        """The times of the walk, descending, `schedule.clean` the last; the schedule's own by default.

        Raises:
            ValueError: if the schedule has no such spacing or number of steps, or the sampler refuses it.
        """
        return schedule.grid(n, spacing)


def walk(
    sampler: Sampler,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float],
    *,
    generators: Sequence[torch.Generator] | None = None,
    label: Tensor | None = None,
    latents: Sequence[Tensor] | None = None,
    guidance: Guidance | None = None,
    progress: Callable[[int], None] | None = None,
    finite: bool = True,
) -> Tensor:
    """Take x (n, ...) from times[0] down to times[-1]; returns x itself if there are fewer than two times.

    Args:
        sampler: gives the formula of a step.
        denoiser: in eval mode, on the device of x.
        schedule: the path of sampler and denoiser.
        x: (n, ...) float32.
        times: descending, as `Sampler.grid` gives them.
        generators: one per row; row i draws from `generators[i]` alone. None draws from torch's own.
        label: (n,) int64, the classes to sample.
        latents: replace what the denoiser would draw: one tensor (n, ...) per network call, in order.
        guidance: makes each prediction from one or more network calls; None makes one plain call.
        progress: called with the number of network calls so far.
        finite: check that x is finite before and after every step.

    Raises:
        ValueError: unless there is exactly one of `latents` per network call.
        SamplingError: naming the step, if x is not finite.
    """
    step, calls, noise = sampler.stepper(), 0, Noise(x, generators)
    dtype = torch.int64 if schedule.discrete else torch.float32

    def rows(time: float, n: int) -> Tensor:
        return torch.full((n,), time, dtype=dtype, device=x.device)

    def denoise_towards(following: float) -> Denoise:
        def ask_at(x_t: Tensor, t: float, s: float) -> Ask:
            latent: Tensor | None = None

            def ask(label: Tensor | None, network: Denoiser | None = None) -> Prediction:
                nonlocal calls, latent
                if latents is not None and calls >= len(latents):
                    raise ValueError(f"every network call needs its latent, got {len(latents)}")
                if latent is None:  # one for all calls that guidance makes at this point
                    latent = denoiser.latent(len(x), generators) if latents is None else latents[calls]
                times_over = 1 if label is None else len(label) // len(x_t)
                repeated = _repeated(x_t, times_over)
                z = _repeated(latent, times_over)
                n = len(repeated)
                prediction: Prediction = (network or denoiser)(
                    repeated, rows(t, n), s=rows(s, n), label=label, latent=z
                )
                calls += times_over
                if progress is not None:
                    progress(calls)
                return prediction

            return ask

        def denoise(x: Tensor, t: float, s: float | None = None) -> Prediction:
            ask = ask_at(x, t, following if s is None else s)
            return ask(label) if guidance is None else guidance.predict(ask, t, label)

        return denoise

    fine = [x.isfinite().all()] if finite else []
    for t, s in pairwise(times):
        # A CPU knows at once; asking an accelerator in every step would make it wait for each.
        if finite and x.device.type == "cpu" and not fine[-1]:
            break
        x = step(denoise_towards(s), x, t, s, noise)
        if finite:
            fine.append(x.isfinite().all())
    if finite and not all(known := torch.stack(fine).tolist()):
        _refuse_infinite(known.index(False), times)
    if latents is not None and calls != len(latents):
        raise ValueError(f"{calls} network calls need as many latents, got {len(latents)}")
    return x


def _refuse_infinite(step: int, times: Sequence[float]) -> NoReturn:
    """Say after which step x was not finite; step 0 is the start."""
    if step == 0:
        raise SamplingError("sampling starts from numbers that are not finite (NaN or infinite)")
    raise SamplingError(
        f"samples are not finite (NaN or infinite) after step {step} of {len(times) - 1}, "
        f"from t = {times[step - 1]:.6g} to {times[step]:.6g}"
    )


@overload
def _repeated(x: Tensor, times: int) -> Tensor: ...
@overload
def _repeated(x: None, times: int) -> None: ...
def _repeated(x: Tensor | None, times: int) -> Tensor | None:
    return x if x is None or times == 1 else x.repeat(times, *[1] * (x.ndim - 1))


class _Counted(Denoiser):
    """Costs nothing: its estimate of x_0 is 0 everywhere."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self._schedule = schedule

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        s: Tensor | None = None,
        label: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Prediction:
        return Prediction(self._schedule, x_t, t, x0=torch.zeros_like(x_t))


class _Asked(Guidance):
    """Another guidance, whose calls of its own networks go to the walk's network instead."""

    def __init__(self, guidance: Guidance) -> None:
        self._guidance = guidance

    def predict(self, ask: Ask, t: float, label: Tensor | None) -> Prediction:
        def ask_the_walk(label: Tensor | None, network: Denoiser | None = None) -> Prediction:
            return ask(label)

        return self._guidance.predict(ask_the_walk, t, label)


@torch.no_grad()
def count_calls(
    sampler: Sampler,
    schedule: NoiseSchedule,
    times: Sequence[float],
    dimensions: int,
    guidance: Guidance | None = None,
) -> int:
    """The network calls of a walk, counted with a trivial network on a sample of `dimensions` axes of size 1.

    Each call that guidance makes counts, and two in one batch count as two.
    """
    calls = 0

    def count(done: int) -> None:
        nonlocal calls
        calls = done

    x, label = torch.zeros(1, *[1] * dimensions), torch.zeros(1, dtype=torch.int64)
    generators = [torch.Generator().manual_seed(0)]
    guidance = None if guidance is None else _Asked(guidance)
    walk(
        sampler, _Counted(schedule), schedule, x, times,
        generators=generators, label=label, guidance=guidance, progress=count, finite=False,
    )  # fmt: skip
    return calls
