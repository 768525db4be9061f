"""diffusers' schedulers as samplers."""

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args

import torch
from pydantic import Field
from torch import Tensor

from toolkit.diffusion.chain import Chain
from toolkit.diffusion.continuous import RectifiedFlow
from toolkit.diffusion.prediction import Prediction, Target, tells_x0
from toolkit.diffusion.sampler import Denoise, Noise, Sampler, Step
from toolkit.diffusion.schedule import NoiseSchedule, Steps
from toolkit.errors import RunError, nearest
from toolkit.registry import values
from toolkit.registry.foreign import builds_foreign
from toolkit.registry.signature import Positive, is_plain

STATELESS = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")

# What a network predicts, as schedulers on a chain call it.
PREDICTION_TYPES: Mapping[Target, str] = {"noise": "epsilon", "x0": "sample", "velocity": "v_prediction"}
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
        self._walks: dict[tuple[int, str | None], Any] = {}  # schedulers by steps and spacing, each tried
        self._takes: dict[Target, bool] = {}

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
        if (n, spacing) not in self._walks:
            own = self._own if spacing is None else self._made({**self._options, "timestep_spacing": spacing})
            self._walks[n, spacing] = walked(own, schedule, n)
        self._scheduler = self._walks[n, spacing]
        if not schedule.discrete:
            return tuple(float(sigma) for sigma in self._scheduler.sigmas)
        return (*(int(t) for t in self._scheduler.timesteps), schedule.clean)

    def stepper(self) -> Step:
        scheduler = copy.deepcopy(self._scheduler)  # a scheduler keeps the history of one walk
        takes = inspect.signature(scheduler.step).parameters
        visited = [float(t) for t in (scheduler.timesteps if self._schedule.discrete else scheduler.sigmas)]
        done: int | None = None  # the scheduler's current step, once the walk has begun

        def step(denoise: Denoise, x_t: Tensor, t: float, s: float, noise: Noise) -> Tensor:
            nonlocal done
            if t not in visited or (done is not None and visited[done : done + 1] != [t]):
                raise RunError(
                    f"[sampler] {self._name} is asked for a step from t = {t:g}, which is not its next time: "
                    "a sampler that has it inside must take its times from it, in grid()"
                )
            if done is None:
                done = visited.index(t)
                if done:  # a walk from below the top skips the first steps
                    start_at(scheduler, done)
                if float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1.0:
                    # Such a scheduler works on x_t / alpha_t = x_0 + (sigma_t / alpha_t) noise.
                    x_t = x_t * float((scheduler.sigmas[done] ** 2 + 1).sqrt())
            timestep = scheduler.timesteps[done]
            random = {"generator": noise.generators} if "generator" in takes else {}
            if self._schedule.discrete:
                prediction = denoise(scheduler.scale_model_input(x_t, timestep), t, t)
                out = self._handed_over(prediction, scheduler)
            else:
                out = denoise(x_t, t, t).flow
            done += 1
            following: Tensor = scheduler.step(out, timestep, x_t, **random).prev_sample
            return following

        return step

    @property
    def saveable(self) -> tuple[str, Any] | None:
        """The pipeline of diffusers that samples with this scheduler as we do, and the scheduler; or None."""
        pipeline = {"DDIMScheduler": "DDIMPipeline", "PNDMScheduler": "PNDMPipeline"}.get(self._name)
        if pipeline is None and "generator" in inspect.signature(self._scheduler.step).parameters:
            pipeline = "DDPMPipeline"  # hands a generator to every step, and draws x of standard deviation 1
        whole = isinstance(self._schedule, Chain) and (
            len(self._schedule.timesteps) == self._schedule.num_train_timesteps
        )
        if pipeline is None or not whole or float(self._scheduler.init_noise_sigma) != 1.0:
            return None
        return pipeline, copy.deepcopy(self._scheduler)

    def _handed_over(self, prediction: Prediction, scheduler: Any) -> Tensor:
        """What the network computes, as what it is, if the scheduler can take that; otherwise the noise."""
        target = prediction.target
        if target not in self._takes:
            self._takes[target] = target == "noise" or _takes(self._scheduler, target)
        target = target if self._takes[target] else "noise"
        if scheduler.config.get("prediction_type") not in (None, PREDICTION_TYPES[target]):
            scheduler.register_to_config(prediction_type=PREDICTION_TYPES[target])
        return prediction.of(target)


def walked(own: Any, schedule: NoiseSchedule, n: int) -> Any:
    """A copy of a scheduler that is set to n steps, after a trial of all of them on a small tensor.

    Raises:
        ValueError: if it cannot take so many, naming those that it can; if it visits times between those of a
            chain.
    """
    if reason := _fault(own, schedule, n):
        most = schedule.num_train_timesteps if isinstance(schedule, Chain) else min(n, 1000)
        low = next((k for k in range(1, most + 1) if not _fault(own, schedule, k)), None)
        high = next((k for k in range(most, 0, -1) if not _fault(own, schedule, k)), None)
        can = (
            "no other number works either"
            if low is None
            else f"with these options it can take {low} to {high}"
        )
        name = type(own).__name__
        raise ValueError(f"{name} cannot take num_inference_steps = {n} ({reason}): {can}")
    scheduler = copy.deepcopy(own)
    scheduler.set_timesteps(n)
    visited = torch.as_tensor(scheduler.timesteps)
    if schedule.discrete and bool((visited != visited.round()).any()):
        leading = own.config.get("timestep_spacing", "leading") == "leading"
        advice = "" if leading else ': set options.timestep_spacing = "leading"'
        raise ValueError(
            f"{type(own).__name__} asks for timesteps between those of the chain at {n} steps{advice}"
        )
    return scheduler


def _fault(own: Any, schedule: NoiseSchedule, n: int) -> str:
    """Why a scheduler cannot take n steps; "" if it can."""
    if isinstance(schedule, Chain) and n > (total := schedule.num_train_timesteps):
        return f"the chain has {total}"
    scheduler = copy.deepcopy(own)
    try:
        scheduler.set_timesteps(n)
        visited = torch.as_tensor(scheduler.timesteps)
        if schedule.discrete and (len(set(visited.tolist())) < n or float(visited.max()) > schedule.noisiest):
            return "it would leave the chain, or stay where it is"
        finite = bool(_take(scheduler, scheduler.timesteps).isfinite().all())
    except Exception as error:  # a scheduler may raise anything on a number it does not support
        return " ".join(str(error).split()) or type(error).__name__
    return "" if finite else "it computes values that are not finite"


def _takes(scheduler: Any, target: Target) -> bool:
    """Whether a scheduler takes predictions of this target as they are."""
    trial = copy.deepcopy(scheduler)
    if "prediction_type" not in trial.config:
        return False
    trial.register_to_config(prediction_type=PREDICTION_TYPES[target])
    try:
        _take(trial, trial.timesteps[:1])
    except Exception:  # they say in many ways that they do not know it
        return False
    return True


def _take(scheduler: Any, timesteps: Iterable[Any]) -> Tensor:
    """Take steps on a small tensor."""
    x = torch.ones((1, 3, 2, 2), device="cpu")
    with torch.random.fork_rng(devices=[]):  # some draw noise
        for t in timesteps:
            x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    return x


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
    _check_options(scheduler, options)
    _try(scheduler(**options), TRIAL_STEPS, options)
    return scheduler(**options)


def scheduler_class(name: str) -> Any:
    """The class of a scheduler for chains.

    Raises:
        ValueError: if diffusers has no such class, or the class takes no betas.
    """
    import diffusers
    from diffusers import SchedulerMixin

    known = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
    result: Any = getattr(diffusers, name, None) if name in known else None
    if not (isinstance(result, type) and issubclass(result, SchedulerMixin)):
        hint = " It lacks a package here." if name in known else nearest(name, known)
        raise ValueError(f"diffusers has no scheduler {name!r}.{hint}")
    if "trained_betas" not in inspect.signature(result).parameters:
        raise ValueError(f"{name} takes no betas, so it cannot follow this schedule")
    return result


def options_of(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options by which `make_scheduler` makes a saved scheduler again.

    Raises:
        ValueError: if there is no such class.
    """
    ours = ("clip_sample", "timestep_spacing", "steps_offset")  # have other defaults in make_scheduler
    result = {}
    for key, parameter in inspect.signature(scheduler_class(name)).parameters.items():
        value = config.get(key, parameter.default)
        if key not in OF_THE_SCHEDULE and value is not None and (value != parameter.default or key in ours):
            result[key] = value
    return result


def make_scheduler(schedule: Chain, name: str, options: dict[str, bool | int | float | str]) -> Any:
    """A scheduler of class `name` on the betas of `schedule`.

    Raises:
        ValueError: if diffusers has no such class, or the class takes no betas or refuses an option.
    """
    result = scheduler_class(name)
    takes = set(inspect.signature(result).parameters)
    _check_options(result, options)
    given: dict[str, object] = {"num_train_timesteps": schedule.num_train_timesteps, "clip_sample": False}
    given |= {"prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 0, **options}
    if not tells_x0(schedule, "noise"):
        given |= {"prediction_type": "v_prediction"}  # of the trials; a walk states what the network computes
        given |= {} if name in STATELESS else {"rescale_betas_zero_snr": True}  # solvers then avoid log(0)
    betas = schedule.betas.numpy()  # schedulers that want lists and those that want arrays both take it
    taken = {key: value for key, value in given.items() if key in takes}
    # At most half the chain: some schedulers cannot visit all of it.
    steps = min(TRIAL_STEPS, max(1, schedule.num_train_timesteps // 2))
    _try(result(trained_betas=betas, **taken), steps, options)
    return result(trained_betas=betas, **taken)


def _check_options(scheduler: Any, options: Mapping[str, bool | int | float | str]) -> None:
    """Refuse names and values that cannot be: diffusers would fail on them much later, if at all.

    Raises:
        ValueError: naming the option.
    """
    parameters, name = inspect.signature(scheduler).parameters, scheduler.__name__
    for key, value in options.items():
        if key not in parameters:
            raise ValueError(f"{name} has no option {key!r}.{nearest(key, parameters)}")
        if key in OF_THE_SCHEDULE:
            raise ValueError(
                f"options.{key} is not the recipe's to set: it follows from the [schedule] and the network"
            )
        annotation = parameters[key].annotation
        others = tuple(kind for kind in get_args(annotation) if kind is not type(None))
        if len(others) < len(get_args(annotation)):  # None is its default
            annotation = Union[others]  # noqa: UP007
        if not is_plain(annotation):
            raise ValueError(f"options.{key} of {name} is of a type that no recipe has")
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
    if not bool(_take(scheduler, scheduler.timesteps).isfinite().all()):
        raise ValueError(f"{name} computes values that are not finite")
