"""Options shared by commands: how to sample a trained model, and on which device."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolkit.cli.complete import component_names
from toolkit.errors import ToolkitError, nearest

if TYPE_CHECKING:
    from toolkit.pipeline.pipeline import Pipeline

C = TypeVar("C", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
device_option = click.option("--device", help='By default an accelerator if there is one, else "cpu".')


def _read_checkpoint(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """A step, or "best"."""
    if value is None or value == "best":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a step nor best")
    return int(value)


checkpoint_option = click.option(
    "--checkpoint", metavar="STEP|best", callback=_read_checkpoint,
    help="The run as it was after this step, or when it was best, by a checkpoint that it keeps.",
)  # fmt: skip


def _read_steps(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """A number, or several separated by commas."""
    if value is None:
        return None
    several = [click.IntRange(min=1)(part, param, ctx) for part in value.split(",")]
    return several if len(several) > 1 else several[0]


def sampler_options(command: C) -> C:
    """Add --sampler, --steps and --spacing to a command, which takes `sampler`, `steps` and `spacing`."""
    for option in (
        click.option(
            "--spacing",
            help="Which times: leading, linspace, trailing, strided or ddim on a chain, uniform or karras on "
            "continuous paths.",
        ),
        click.option(
            "--steps",
            metavar="N[,N...]",
            callback=_read_steps,
            help="Steps, e.g. 50, or 10,10,20 in sections of the chain; by default the model's own.",
        ),
        click.option(
            "--sampler",
            shell_complete=component_names("toolkit.diffusion.sampler:Sampler"),
            help="A registered sampler (ancestral, ddim, ...), or a diffusers scheduler's class.",
        ),
    ):
        command = option(command)
    return command


def choose_sampler(
    pipeline: "Pipeline", sampler: str | None, steps: int | list[int] | None, spacing: str | None
) -> "Pipeline":
    """The pipeline with the sampler and the steps that the command line asks for; by default unchanged.

    Raises:
        RecipeError: if there is no such sampler or option.
        ToolkitError: if a diffusers scheduler is named without a number of steps.
    """
    from toolkit.console import say

    given = {"num_inference_steps": steps, "spacing": spacing}
    options = {name: value for name, value in given.items() if value is not None}
    if sampler is None and not options:
        return pipeline
    own = (pipeline.saved.sampler or {}).get("num_inference_steps")
    if steps is not None and own not in (None, steps):
        say(f"--steps {steps}: this model is saved with {own}", "note")
    if sampler is not None and sampler.endswith("Scheduler"):
        if steps is None:
            raise ToolkitError(f"--sampler {sampler} needs --steps, the number of the scheduler's steps")
        return pipeline.with_sampler("diffusers", scheduler=sampler, **options)
    return pipeline.with_sampler(sampler, **options)


def choose_device(name: str | None) -> Any:
    """The torch device of that name, or an accelerator if there is one, else the CPU.

    Raises:
        ToolkitError: if torch has no such device here, or a launcher started several processes, all of which
            would do the same work and write the same files.
    """
    if (count := os.environ.get("WORLD_SIZE", "1")) not in ("", "1"):
        raise ToolkitError(
            f"the launcher started {count} processes (WORLD_SIZE), and this command works in one: run it "
            "without torchrun or accelerate launch. `toolkit evaluate` shares its sampling out"
        )
    from toolkit.diffusion.denoiser import device_named

    return device_named(name, f"--device {name}")


def override(pipeline: "Pipeline", flags: Sequence[str]) -> "Pipeline":
    """The pipeline with options of its sampler, start and guidance as `--set sampler.eta=0.5` sets them.

    Raises:
        ToolkitError: if a flag is no assignment to one of these parts.
        RecipeError: if the part has no such option, or refuses it.
    """
    from toolkit.recipe.layers import read_flags

    chosen = read_flags(flags)
    parts = ("sampler", "start", "guidance")
    for name, options in chosen.items():
        if name not in parts or not isinstance(options, dict):
            hint = nearest(name, parts)
            raise ToolkitError(f"--set {name}: only options of {', '.join(parts)} can be set here.{hint}")
        present = pipeline.saved.tables.get(name, {})
        merged = {key: _member_set(present.get(key), value) for key, value in options.items()}
        pipeline = getattr(pipeline, f"with_{name}")(**merged)
    return pipeline


def _member_set(present: Any, value: Any) -> Any:
    """A table with the members that flags set, and its others as they were unless its type changes."""
    both = isinstance(present, dict) and isinstance(value, dict)
    return {**present, **value} if both and value.get("type") in (None, present.get("type")) else value
