"""diffusers' schedulers as samplers."""

import copy
import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args

import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.chain import Chain
from toolkit.diffusion.continuous import RectifiedFlow
from toolkit.diffusion.sampler import Denoise, Noise, Sampler, Step
from toolkit.diffusion.schedule import NoiseSchedule, Steps
from toolkit.errors import RunError, nearest
from toolkit.registry import values
from toolkit.registry.foreign import builds_foreign
from toolkit.registry.signature import Positive, is_plain

STATELESS = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")

# Options of schedulers that follow from the schedule and the network, so a recipe must not set them.
OF_THE_SCHEDULE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
)  # fmt: skip
# Limits that their own types do not express, and that they check too late or never.
LIMITS: Mapping[str, Any] = {
    "solver_order": Annotated[int, Field(ge=1, le=3)],
    "original_inference_steps": Positive,
    "steps_offset": Annotated[int, Field(ge=0, le=1)],
    "timestep_spacing": Literal["leading", "linspace", "trailing"],
    "interpolation_type": Literal["linear", "log_linear"],
    "clip_sample_range": Annotated[float, Field(gt=0)],
    "sample_max_value": Annotated[float, Field(gt=0)],
    "dynamic_thresholding_ratio": Annotated[float, Field(gt=0, le=1)],
}
TRIAL_STEPS = 20  # enough to leave the warm-up of every solver


@builds_foreign
class DiffusersSampler(Sampler):
    """Any diffusers scheduler, by class name, on a chain; on rectified flow those named FlowMatch...

    Args:
        scheduler: the class, e.g. DPMSolverMultistepScheduler or UniPCMultistepScheduler.
        options: further arguments of the scheduler's constructor.

    Raises:
        ValueError: if there is no such scheduler or option, or it does not fit the path.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        scheduler: str,
        options: dict[str, bool | int | float | str] | None = None,
    ) -> None:
        self._schedule, self._name, self._options = schedule, scheduler, options or {}
        self._own = self._scheduler = self._made(self._options)  # tried once, with the spacing of its options

    def _made(self, options: dict[str, bool | int | float | str]) -> Any:
        if isinstance(self._schedule, Chain):
            return make_scheduler(self._schedule, self._name, options)
        if isinstance(self._schedule, RectifiedFlow):
            return make_flow_scheduler(self._name, options)
        kind = type(self._schedule).__name__
        raise ValueError(f"diffusers' schedulers follow chains and rectified flow, not a {kind}")

    def grid(self, schedule: NoiseSchedule, n: Steps | None, spacing: str | None) -> tuple[float, ...]:
        if not isinstance(n, int):
            raise ValueError(f"{self._name} needs num_inference_steps, one number")
        if spacing not in (None, "leading", "linspace", "trailing"):
            raise ValueError(f"{self._name} has no spacing {spacing!r}, but leading, linspace, trailing")
        if spacing is None:
            self._scheduler = self._own
        else:
            self._scheduler = self._made({**self._options, "timestep_spacing": spacing})
        if isinstance(schedule, Chain) and n > (total := schedule.num_train_timesteps):
            raise ValueError(
                f"num_inference_steps must be from 1 to {total}, the length of the chain, not {n}"
            )
        try:
            self._scheduler.set_timesteps(n)
        except Exception as error:  # a scheduler may raise anything on a number it does not support
            reason = " ".join(str(error).split())
            raise ValueError(f"{self._name} cannot take num_inference_steps = {n}: {reason}") from error
        if not schedule.discrete:
            return tuple(float(sigma) for sigma in self._scheduler.sigmas)
        visited = torch.as_tensor(self._scheduler.timesteps)
        if bool((visited != visited.round()).any()):
            leading = self._scheduler.config.get("timestep_spacing", "leading") == "leading"
            advice = "" if leading else ': set options.timestep_spacing = "leading"'
            raise ValueError(
                f"{self._name} asks for timesteps between those of the chain at {n} steps{advice}"
            )
        if len(set(visited.tolist())) < n or float(visited.max()) > schedule.noisiest:
            raise ValueError(
                f"{self._name} cannot walk this chain in {n} steps, but would leave it, or stay where it is: "
                "set a smaller num_inference_steps, or another timestep_spacing or steps_offset in options"
            )
        return (*(int(t) for t in visited), schedule.clean)

    def stepper(self) -> Step:
        scheduler = copy.deepcopy(self._scheduler)  # a scheduler keeps the history of one walk
        takes = inspect.signature(scheduler.step).parameters
        visited = [float(t) for t in scheduler.timesteps]
        done: int | None = None  # the scheduler's current step, once the walk has begun

        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            nonlocal done
            if done is None:
                done = self._begin(scheduler, visited, t)
                if float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0:
                    # Such a scheduler works on x_t / alpha_t = x_0 + (sigma_t / alpha_t) noise.
                    x_t = x_t * float((scheduler.sigmas[done] ** 2 + 1).sqrt())
            timestep = scheduler.timesteps[done]
            random = {"generator": noise.generators} if "generator" in takes else {}
            if self._schedule.discrete:
                out = denoise(scheduler.scale_model_input(x_t, timestep), t, t).noise
            else:
                out = denoise(x_t, t, t).flow
            done += 1
            following: Tensor = scheduler.step(out, timestep, x_t, **random).prev_sample
            return following

        return step

    def _begin(self, scheduler: Any, visited: list[float], t: float) -> int:
        """The scheduler's step at which a walk from t begins; one below the top skips the first steps."""
        first = visited.index(t) if self._schedule.discrete else [float(x) for x in scheduler.sigmas].index(t)
        if first:
            start_at(scheduler, first)
        return first


def start_at(scheduler: Any, first: int) -> None:
    """Make a scheduler begin at step `first`.

    Raises:
        RunError: if it cannot; its samples would silently be wrong.
    """
    name = type(scheduler).__name__
    if name in STATELESS:
        return
    if "set_begin_index" not in dir(scheduler) or scheduler.order != 1:
        raise RunError(
            f"[sampler] {name} cannot begin below the top of the chain: its steps depend on those before"
        )
    scheduler.set_begin_index(first)


def make_flow_scheduler(name: str, options: dict[str, bool | int | float | str]) -> Any:
    """A flow-matching scheduler of class `name`, whose sigma is the time of rectified flow.

    Raises:
        ValueError: if diffusers has no such class, or the class has no such option or value.
    """
    import diffusers

    known = [n for n in dir(diffusers) if n.startswith("FlowMatch") and n.endswith("Scheduler")]
    if name not in known:
        raise ValueError(f"{name} does not follow rectified flow; diffusers has {', '.join(known)} for it")
    scheduler = getattr(diffusers, name)
    takes = set(inspect.signature(scheduler).parameters)
    if unknown := [key for key in options if key not in takes]:
        raise ValueError(f"{name} has no option {unknown[0]!r}.{nearest(unknown[0], takes)}")
    _check_options(scheduler, options)
    _try(scheduler(**options), TRIAL_STEPS, options)
    return scheduler(**options)


def make_scheduler(schedule: Chain, name: str, options: dict[str, bool | int | float | str]) -> Any:
    """A scheduler of class `name` on the betas of `schedule`, for predictions of the noise.

    Raises:
        ValueError: if diffusers has no such class, or the class takes no betas or refuses an option.
    """
    import diffusers
    from diffusers import SchedulerMixin

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    result = getattr(diffusers, name, None) if name in known else None
    if not (isinstance(result, type) and issubclass(result, SchedulerMixin)):
        hint = " It lacks a package here." if name in known else nearest(name, known)
        raise ValueError(f"diffusers has no scheduler {name!r}.{hint}")
    takes = set(inspect.signature(result).parameters)
    if "trained_betas" not in takes:
        raise ValueError(f"{name} takes no betas, so it cannot follow this schedule")
    if unknown := [key for key in options if key not in takes]:
        raise ValueError(f"{name} has no option {unknown[0]!r}.{nearest(unknown[0], takes)}")
    if reserved := [key for key in options if key in OF_THE_SCHEDULE]:
        raise ValueError(f"options.{reserved[0]} is not the recipe's to set: it follows from the [schedule]")
    _check_options(result, options)
    given: dict[str, object] = {"num_train_timesteps": schedule.num_train_timesteps, "clip_sample": False}
    given |= {"prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 0, **options}
    betas = schedule.betas.numpy()  # schedulers that want lists and those that want arrays both take it
    taken = {key: value for key, value in given.items() if key in takes}
    # At most half the chain: some schedulers cannot visit all of it.
    steps = min(TRIAL_STEPS, max(1, schedule.num_train_timesteps // 2))
    _try(result(trained_betas=betas, **taken), steps, options)
    return result(trained_betas=betas, **taken)


def _check_options(scheduler: Any, options: Mapping[str, bool | int | float | str]) -> None:
    """Refuse values of the wrong type: diffusers would fail on them much later, if at all.

    Raises:
        ValueError: naming the option.
    """
    parameters = inspect.signature(scheduler).parameters
    for key, value in options.items():
        annotation = parameters[key].annotation
        others = tuple(kind for kind in get_args(annotation) if kind is not type(None))
        if len(others) < len(get_args(annotation)):  # None is its default
            annotation = Union[others]  # noqa: UP007
        if not is_plain(annotation):
            raise ValueError(f"options.{key} of {scheduler.__name__} is of a type that no recipe has")
        annotation = LIMITS.get(key, annotation)
        try:
            values.parse(annotation, value)
        except values.Mismatch as mismatch:
            raise ValueError(f"options.{key} must be {values.expected(annotation)}, {mismatch}") from None


def _try(scheduler: Any, steps: int, options: Mapping[str, bool | int | float | str]) -> None:
    """Take a few steps now: some schedulers fail only in a step, which would be after hours of training.

    Raises:
        ValueError: if it walks towards noise, or computes values that are not finite.
        Exception: whatever the scheduler raises.
    """
    name = f"{type(scheduler).__name__} with options {values.as_text(options)}"
    scheduler.set_timesteps(min(steps, scheduler.config.get("original_inference_steps", steps)))
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        raise ValueError(f"{name} walks from data to noise, and not back")
    x = torch.ones((1, 3, 2, 2), device="cpu")
    with torch.random.fork_rng(devices=[]):  # some draw noise
        for t in scheduler.timesteps:
            x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    if not bool(x.isfinite().all()):
        raise ValueError(f"{name} computes values that are not finite")
