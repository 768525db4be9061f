"""`toolkit sample`: images from a trained model."""

from pathlib import Path

import click

from toolkit.cli.flags import TakesInitialiser, stated
from toolkit.errors import RunError, ToolkitError


@click.command(cls=TakesInitialiser, short_help="Sample images from a run or a saved pipeline.")
@click.argument("source", metavar="RUN")
@click.option("--num", default=64, show_default=True, type=click.IntRange(min=1), help="How many images.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Network calls; the pipeline's own number by default."
)
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
    source: str, num: int, steps: int | None, sampler: str | None, init: str | None, show_start: bool,
    seed: int, batch_size: int, label: int | None, device: str | None, out: str, save: str | None,
    overwrite: bool, **options: str | None,
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

    pipeline = choose_sampler(Pipeline.from_pretrained(source), sampler, steps)
    if init is not None:
        pipeline = pipeline.with_initialiser(init, **stated(options))
    move(pipeline, device)
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
    taken = target.exists() and (target.is_file() or any(target.iterdir()))
    if taken and not overwrite:
        raise RunError(f"{target}: is already there; give --overwrite to replace it, or another {flag}")


def choose_sampler(pipeline, sampler: str | None, steps: int | None):  # type: ignore[no-untyped-def]
    """The pipeline under the sampler and number of steps that the command line asks for."""
    if sampler is None and steps is None:
        return pipeline
    options: dict[str, object] = {} if steps is None else {"num_inference_steps": steps}
    if sampler is not None and sampler.endswith("Scheduler"):
        if steps is None:
            raise ToolkitError(f"--sampler {sampler} needs --steps, the number of the scheduler's steps")
        return pipeline.with_sampler("diffusers", scheduler=sampler, **options)
    return pipeline.with_sampler(sampler, **options)


def move(pipeline, device: str | None) -> None:  # type: ignore[no-untyped-def]
    """Move the pipeline to that device, or to an accelerator if there is one."""
    import torch

    try:
        pipeline.to(device or torch.accelerator.current_accelerator() or "cpu")
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that it has no such device
        reason = str(error).splitlines()[0]
        raise ToolkitError(f"--device {device}: {reason}") from None
