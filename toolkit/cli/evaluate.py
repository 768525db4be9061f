"""`toolkit evaluate`: scores of a trained model."""

from pathlib import Path

import click

from toolkit.errors import RunError


@click.command(short_help="Score a trained model.")
@click.argument("source", metavar="RUN")
@click.option("--metrics", required=True, help="Names of metrics, with commas between them.")
@click.option("--data", help="A recipe whose [data] to compare with; by default the run's own.")
@click.option(
    "--split",
    type=click.Choice(["held_out", "train"]),
    help="By default the held-out examples, or the training examples where none are kept.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Set a value: data.path, metrics.<name>.<option>.",
)
@click.option("--device", help='By default an accelerator if there is one, else "cpu".')
@click.option("--out", help="Folder for the scores; by default scores/ in the run folder.")
def evaluate(
    source: str, metrics: str, data: str | None, split: str | None, overrides: tuple[str, ...],
    device: str | None, out: str | None,
) -> None:  # fmt: skip
    """Score RUN: a run folder, a pipeline folder, a diffusers folder or a Hub id.

    A score is written with the protocol that it was measured by; a score by another protocol stays beside it.
    """
    names = [name for name in (part.strip() for part in metrics.split(",")) if name]
    if not names:
        raise click.BadParameter("names no metric", param_hint="--metrics")
    folder, recipe = places(source, data, out)

    from typing import cast

    from toolkit import plugins
    from toolkit.cli.sample import move
    from toolkit.console import evaluating_display, say
    from toolkit.evaluation import Split, read_protocol
    from toolkit.evaluation import evaluate as score
    from toolkit.pipeline import Pipeline

    protocol = read_protocol(recipe, names, overrides, plugins.load().registry)
    pipeline = Pipeline.from_pretrained(source)
    move(pipeline, device)
    with evaluating_display() as progress:
        for scored in score(pipeline, protocol, cast(Split | None, split), progress):
            for name, value in scored.score.values.items():
                say(f"{scored.metric:<12} {name:<28} {value:.6g}")
            say(f"written to {scored.write(folder)}")


def places(source: str, data: str | None, out: str | None) -> tuple[Path, str]:
    """The folder for scores, and the recipe whose data to compare with.

    Raises:
        RunError: if one has to be stated.
    """
    run = next((p for p in (Path(source), Path(source).parent) if (p / "recipe.toml").is_file()), None)
    if run is None and data is None:
        raise RunError(f"{source}: is no run, which would know its data: state --data RECIPE")
    if run is None and out is None:
        raise RunError(f"{source}: is no run, which would keep its scores: state --out FOLDER")
    return (Path(out) if out else Path(str(run)) / "scores"), data or str(Path(str(run)) / "recipe.toml")
