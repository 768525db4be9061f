"""diffusers' schedulers as samplers."""

import inspect
from typing import Any, Unpack

import torch
from torch import Tensor

from toolkit.denoiser import Denoiser
from toolkit.errors import RunError, nearest
from toolkit.options import Positive
from toolkit.sampler import Draws, Sampler
from toolkit.schedule import NoiseSchedule

STATELESS = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")


class DiffusersSampler(Sampler):
    """Any diffusers scheduler, by its class name.

    Args:
        scheduler: the class, e.g. DPMSolverMultistepScheduler or UniPCMultistepScheduler.
        num_inference_steps: steps of the scheduler; some take several network calls a step.
        options: further arguments of the scheduler's constructor.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        scheduler: str,
        num_inference_steps: Positive,
        options: dict[str, bool | int | float | str] | None = None,
    ) -> None:
        self._scheduler = make_scheduler(schedule, scheduler, options or {})
        self._scheduler.set_timesteps(num_inference_steps)
        visited = torch.as_tensor(self._scheduler.timesteps)
        if bool((visited != visited.round()).any()):
            leading = (options or {}).get("timestep_spacing", "leading") == "leading"
            advice = "" if leading else ': set options.timestep_spacing = "leading"'
            asked = (
                f"{scheduler} asks for timesteps between those of the chain at {num_inference_steps} steps"
            )
            raise ValueError(asked + advice)
        self.num_inference_steps = num_inference_steps
        self.timesteps = visited.long().sort().values  # Heun and others visit one more than once

    def sample(self, denoiser: Denoiser, x: Tensor, start: int, **draws: Unpack[Draws]) -> Tensor:
        scheduler, generators, latents = self._scheduler, draws.get("generators"), draws.get("latents")
        label, progress = draws.get("label"), draws.get("progress")
        scheduler.set_timesteps(self.num_inference_steps, device=x.device)  # forgets the last run's history
        random = (
            {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
        )
        visited = scheduler.timesteps
        first = int((visited >= start).sum())  # a chain that starts lower leaves out the first ones
        if first == len(visited):
            return x
        if first:
            start_at(scheduler, first)
        if float(scheduler.init_noise_sigma) != 1.0:
            # Such a scheduler works on x_t / sqrt(abar_t) = x_0 + sigma noise.
            x = x * (scheduler.sigmas[first] ** 2 + 1).sqrt()
        for call, t in enumerate(visited[first:]):
            latent = denoiser.latent(len(x), generators) if latents is None else latents[call]
            rows = torch.full((len(x),), int(t), dtype=torch.int64, device=x.device)
            noise = denoiser(scheduler.scale_model_input(x, t), rows, label, latent).noise
            x = scheduler.step(noise, t, x, **random).prev_sample
            if progress is not None:
                progress(call + 1)
        return x


def start_at(scheduler: Any, first: int) -> None:
    """Have a scheduler begin at a later one of its steps.

    Raises:
        RunError: if it cannot: its samples would be wrong without a word.
    """
    name = type(scheduler).__name__
    if name in STATELESS:
        return
    if "set_begin_index" not in dir(scheduler) or scheduler.order != 1:
        raise RunError(
            f"[sampler] {name} cannot begin below the top of the chain: its steps depend on those before"
        )
    scheduler.set_begin_index(first)


def make_scheduler(schedule: NoiseSchedule, name: str, options: dict[str, bool | int | float | str]) -> Any:
    """The scheduler of that class on the betas of `schedule`, fed with predictions of the noise.

    Raises:
        ValueError: if diffusers has no such class, or the class takes no betas or no such option.
    """
    import diffusers
    from diffusers import SchedulerMixin

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    found = getattr(diffusers, name, None) if name in known else None
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        hint = " It lacks a package here." if name in known else nearest(name, known)
        raise ValueError(f"diffusers has no scheduler {name!r}.{hint}")
    takes = set(inspect.signature(found).parameters)
    if "trained_betas" not in takes:
        raise ValueError(f"{name} takes no betas, so it cannot follow this schedule")
    if unknown := [key for key in options if key not in takes]:
        raise ValueError(f"{name} has no option {unknown[0]!r}.{nearest(unknown[0], takes)}")
    given: dict[str, object] = {"num_train_timesteps": schedule.num_train_timesteps, "clip_sample": False}
    given |= {"prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 0, **options}
    betas = schedule.betas.numpy()  # schedulers that build on lists or arrays both take it
    return found(trained_betas=betas, **{key: value for key, value in given.items() if key in takes})
