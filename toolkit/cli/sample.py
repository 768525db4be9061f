"""`toolkit sample`: images from a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from toolkit.cli.complete import component_names, run_folders
from toolkit.cli.flags import TakesStart, read_flags
from toolkit.cli.options import (
    checkpoint_option,
    choose_device,
    choose_sampler,
    device_option,
    override,
    sampler_options,
)
from toolkit.errors import RunError, ToolkitError

if TYPE_CHECKING:
    from toolkit.pipeline.pipeline import Pipeline


@click.command(cls=TakesStart, short_help="Sample images from a run or a saved pipeline.")
@click.argument("source", metavar="RUN", shell_complete=run_folders)
@click.option("--num", default=64, show_default=True, type=click.IntRange(min=1), help="How many images.")
@sampler_options
@click.option(
    "--start",
    shell_complete=component_names("toolkit.diffusion.start:Start"),
    help="A registered start, from which the walk begins. Its options are flags too: --start NAME --help.",
)
@click.option("--show-start", is_flag=True, help="Show left of each image what it started from.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**62),
    help="Image i is seeded seed + i, whatever the batch size.",
)
@click.option(
    "--batch-size", default=64, show_default=True, type=click.IntRange(min=1), help="Images at once."
)
@click.option(
    "--label",
    metavar="A[,B...]",
    help="Classes of a conditional model, by number or name, which images take in turn; all by default.",
)
@click.option(
    "--guidance", type=click.FloatRange(min=0), help="Scale of classifier-free guidance; 1 is none."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Set an option of the sampler, the start or the guidance: sampler.eta=0.5.",
)
@checkpoint_option
@click.option(
    "--weights",
    type=click.Choice(["ema", "raw"]),
    help="Averaged or raw weights, of the newest checkpoint; by default those of the pipeline.",
)
@device_option
@click.option("--compile", "compiled", is_flag=True, help="Compile the network first: pays for many images.")
@click.option("--out", default="samples.png", show_default=True, help="A .png for one grid, or a folder.")
@click.option("--save", help="Also save the pipeline, with these settings, to this folder.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out and --save.")
def sample(
    source: str, num: int, steps: int | list[int] | None, spacing: str | None, sampler: str | None,
    start: str | None, show_start: bool, seed: int, batch_size: int, label: str | None,
    guidance: float | None, overrides: tuple[str, ...], device: str | None, compiled: bool, out: str,
    save: str | None, overwrite: bool, weights: Literal["ema", "raw"] | None,
    checkpoint: int | Literal["best"] | None, **options: str | None,
) -> None:  # fmt: skip
    """Sample images from RUN: a run or a checkpoint, a pipeline folder, a diffusers folder or a Hub id."""
    target = Path(out)
    refuse_to_replace(target, overwrite)
    if save is not None:
        refuse_to_replace(Path(save), overwrite, "--save")

    import torch

    from toolkit.console import sampling_display, say
    from toolkit.files import refuse_taken
    from toolkit.pipeline.images import drawable, save_images, save_samples
    from toolkit.pipeline.pipeline import Pipeline
    from toolkit.runs.checkpoints import checkpoint_of

    if checkpoint is not None:
        source = str(checkpoint_of(Path(source), checkpoint))
    pipeline = choose_sampler(Pipeline.from_pretrained(source, weights), sampler, steps, spacing)
    if target.suffix == ".png" and not drawable(pipeline.image_shape, pipeline.pictures):
        refuse_taken(target.with_suffix(".npy"), overwrite, "--out")  # where other data than pictures goes
    if start is not None:
        pipeline = pipeline.with_start(start, **read_flags(options))
    if guidance is not None:
        pipeline = pipeline.with_guidance("cfg", scale=guidance)
    pipeline = override(pipeline, overrides).to(choose_device(device))
    labels = None if label is None else classes(pipeline, label, num)
    if save is not None:
        pipeline.save_pretrained(save)
    if compiled:
        pipeline.compile()
    with sampling_display(num, pipeline.calls) as progress:
        batches = pipeline.sample(num, seed=seed, batch_size=batch_size, labels=labels, progress=progress)
        if show_start:
            clean = pipeline.without_refining()
            starts = clean.sample(num, seed=seed, batch_size=batch_size, labels=labels)
            batches = (torch.cat(pair, dim=-1) for pair in zip(starts, batches, strict=True))
        if target.suffix == ".png":
            written = save_samples(torch.cat(list(batches)), target, pipeline.pictures)
        else:
            written = save_images(batches, target, pipeline.pictures)
    before = f", after {pipeline.start.calls} for its start" if pipeline.start.calls else ""
    say(f"{num} samples, {pipeline.calls} network calls each{before}: {written}")


def classes(pipeline: "Pipeline", label: str, num: int) -> list[int]:
    """The class number of each of `num` images, which take the classes of `--label` in turn.

    Raises:
        ToolkitError: if the model is not conditional, or has no such class.
    """
    names = pipeline.saved.class_names or []  # which may have commas, or be numbers, but not their own
    parts = [label] if label in names else label.split(",")
    chosen = [int(part) if part.isdecimal() and part not in names else part for part in parts]
    try:
        return pipeline.classes([chosen[i % len(chosen)] for i in range(num)]).tolist()
    except ValueError as error:
        raise ToolkitError(f"--label {label}: {error}") from None


def refuse_to_replace(target: Path, overwrite: bool, flag: str = "--out") -> None:
    """Refuse, before sampling, a target that is taken or of the wrong kind.

    Raises:
        RunError: naming the target and the flags that help.
    """
    from toolkit.files import refuse_taken

    if flag == "--out" and target.suffix not in ("", ".png") and not target.is_dir():
        raise RunError(f"--out {target}: a grid is written as .png, and single images into a folder")
    refuse_taken(target, overwrite, flag)
