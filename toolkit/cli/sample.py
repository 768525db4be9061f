"""`toolkit sample`: images from a trained model."""

from pathlib import Path
from typing import Any

import click

from toolkit.cli.device import chosen_device
from toolkit.cli.flags import TakesInitialiser, stated
from toolkit.errors import RunError, ToolkitError


def read_steps(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """A number, or several with commas between them."""
    if value is None:
        return None
    several = [click.IntRange(min=1)(part, param, ctx) for part in value.split(",")]
    return several if len(several) > 1 else several[0]


steps_option = click.option(
    "--steps",
    metavar="N[,N...]",
    callback=read_steps,
    help="Network calls, e.g. 50, or 10,10,20 in sections of the chain; the pipeline's own by default.",
)
spacing_option = click.option(
    "--spacing", help="Which timesteps those are: leading, linspace, trailing, strided or ddim."
)


@click.command(cls=TakesInitialiser, short_help="Sample images from a run or a saved pipeline.")
@click.argument("source", metavar="RUN")
@click.option("--num", default=64, show_default=True, type=click.IntRange(min=1), help="How many images.")
@steps_option
@spacing_option
@click.option(
    "--sampler", help="A registered sampler (ancestral, ddim, ...), or a diffusers scheduler's class."
)
@click.option(
    "--init",
    help="A registered initialiser: where the chain starts. Its options are flags too: --init NAME --help.",
)
@click.option("--show-start", is_flag=True, help="On the left of each image, what its chain started from.")
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
@click.option("--label", type=click.IntRange(min=0), help="Class of all images, for a conditional model.")
@click.option("--device", help='By default an accelerator if there is one, else "cpu".')
@click.option("--out", default="samples.png", show_default=True, help="A .png for one grid, or a folder.")
@click.option("--save", help="A folder in which to keep the pipeline as it samples here.")
@click.option("--overwrite", is_flag=True, help="Replace what is at --out and --save.")
def sample(
    source: str, num: int, steps: int | list[int] | None, spacing: str | None, sampler: str | None,
    init: str | None, show_start: bool, seed: int, batch_size: int, label: int | None, device: str | None,
    out: str, save: str | None, overwrite: bool, **options: str | None,
) -> None:  # fmt: skip
    """Sample images from RUN: a run folder, a pipeline folder, a diffusers folder or a Hub id."""
    target = Path(out)
    refuse_to_replace(target, overwrite)
    if save is not None:
        refuse_to_replace(Path(save), overwrite, "--save")

    import torch

    from toolkit.console import sampling_display, say
    from toolkit.grid import save_images, save_samples
    from toolkit.pipeline import Pipeline

    pipeline = choose_sampler(Pipeline.from_pretrained(source), sampler, steps, spacing)
    if target.suffix == ".png" and len(pipeline.description.sample_shape) != 3:
        refuse_taken(target.with_suffix(".npy"), overwrite, "--out")  # where what is no picture goes
    if init is not None:
        pipeline = pipeline.with_initialiser(init, **stated(options))
    pipeline.to(chosen_device(device))
    classes = pipeline.num_classes
    if label is not None and (classes is None or label >= classes):
        known = "is not conditional" if classes is None else f"has classes 0..{classes - 1}"
        raise ToolkitError(f"--label {label}: this model {known}")
    labels = None if label is None else [label] * num
    if save is not None:
        pipeline.save_pretrained(save)
    with sampling_display(num, pipeline.calls) as progress:
        batches = pipeline.sample(num, seed=seed, batch_size=batch_size, labels=labels, progress=progress)
        if show_start:
            clean = pipeline.without_refining()
            starts = clean.sample(num, seed=seed, batch_size=batch_size, labels=labels)
            batches = (torch.cat(pair, dim=-1) for pair in zip(starts, batches, strict=True))
        if target.suffix == ".png":
            written = save_samples(torch.cat(list(batches)), target)
        else:
            written = save_images(batches, target)
    before = f", after {pipeline.initialiser.calls} for its start" if pipeline.initialiser.calls else ""
    say(f"{num} samples, {pipeline.calls} network calls each{before}: {written}")


def refuse_to_replace(target: Path, overwrite: bool, flag: str = "--out") -> None:
    """Find out before sampling whether the result may be written."""
    if flag == "--out" and target.suffix not in ("", ".png") and not target.is_dir():
        raise RunError(f"--out {target}: a grid is written as .png, and single images into a folder")
    refuse_taken(target, overwrite, flag)


def refuse_taken(target: Path, overwrite: bool, flag: str) -> None:
    """Refuse a file, or a folder with something in it, that was not to be overwritten."""
    taken = target.exists() and (target.is_file() or any(target.iterdir()))
    if taken and not overwrite:
        raise RunError(f"{target}: is already there; give --overwrite to replace it, or another {flag}")


def choose_sampler(  # type: ignore[no-untyped-def]
    pipeline, sampler: str | None, steps: int | list[int] | None, spacing: str | None
):
    """The pipeline under the sampler and the steps that the command line asks for."""
    asked = {"num_inference_steps": steps, "spacing": spacing}
    options = {name: value for name, value in asked.items() if value is not None}
    if sampler is None and not options:
        return pipeline
    if sampler is not None and sampler.endswith("Scheduler"):
        if steps is None:
            raise ToolkitError(f"--sampler {sampler} needs --steps, the number of the scheduler's steps")
        return pipeline.with_sampler("diffusers", scheduler=sampler, **options)
    return pipeline.with_sampler(sampler, **options)
