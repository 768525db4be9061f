"""`toolkit ema`: the average of a run's weights whose width is chosen after training."""

from pathlib import Path

import click

from toolkit.commands import RunError, Snapshot, echo, read_snapshots, refuse_taken, run_of, say


@click.command(short_help="Make an average of a run's weights, of any width.")
@click.argument("source", metavar="RUN")
@click.option(
    "--width",
    type=click.FloatRange(0, 0.2886, min_open=True, max_open=True),
    help="Relative width (sigma_rel): the standard deviation of the steps in the average, as a share of all "
    "steps, e.g. 0.07. Without it, the snapshots are listed.",
)
@click.option("--step", type=click.IntRange(min=1), help="Average up to this step; by default the last one.")
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="The folder of the pipeline; by default ema-<width>-step-<step> in RUN.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
def ema(source: str, width: float | None, step: int | None, out: Path | None, overwrite: bool) -> None:
    """Save a pipeline of RUN whose weights are the average of a chosen width, made of snapshots.

    `toolkit sample` takes it as it is, and autoguidance as its weak model. RUN needs [ema.<role>] with widths
    and snapshot_every.
    """
    run = run_of(source)
    if run is None:
        raise RunError(f"{source}: is not a run, which keeps snapshots")
    snapshots = read_snapshots(run)
    if not snapshots:
        raise RunError(
            f"{run}: has no snapshots: train with [ema.<role>] widths = [0.05, 0.1] and snapshot_every"
        )
    if width is None:
        for role in sorted({snapshot.role for snapshot in snapshots}):
            echo(overview([snapshot for snapshot in snapshots if snapshot.role == role]))
        return

    from toolkit import Pipeline
    from toolkit_posthoc_ema.reconstruction import listed, reconstruction

    pipeline = Pipeline.from_pretrained(run)
    role = pipeline.saved.role
    of_role = [snapshot for snapshot in snapshots if snapshot.role == role]
    if not of_role:
        others = ", ".join(sorted({snapshot.role for snapshot in snapshots}))
        raise RunError(
            f"{run}: samples with {role!r}, and its snapshots are of {others}: train with [ema.{role}] widths"
        )
    made = reconstruction(of_role, width, step)
    target = out or run / f"ema-{width}-step-{made.step:07d}"
    refuse_taken(target, overwrite, "--out")
    pipeline.denoiser.load_state_dict(made.state(pipeline.denoiser))
    facts = {"weights": f"ema of width {width}", "steps": made.step}
    pipeline.saved, pipeline.readme = pipeline.saved.model_copy(update=facts), None
    pipeline.save_pretrained(target)
    widths = listed(sorted({snapshot.width for snapshot in made.snapshots}))
    say(
        f"step {made.step:,}, width {width}, of {len(made.snapshots)} snapshots of widths {widths}; "
        f"{made.error:.2g} of the profile's norm are left: {target}"
    )


def overview(snapshots: list[Snapshot]) -> str:
    """The snapshots of one role on a line."""
    from toolkit_posthoc_ema.reconstruction import listed

    steps, widths = (sorted({getattr(s, name) for s in snapshots}) for name in ("step", "width"))
    total = sum(snapshot.size for snapshot in snapshots) / 2**20
    return (
        f"{snapshots[0].role}: {len(snapshots)} snapshots, {total:,.1f} MiB: widths {listed(widths)}, "
        f"steps {listed(steps)}"
    )
