"""`toolkit evaluate`: scores of a trained model, or of a folder of images."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from toolkit.cli.complete import component_names, run_folders
from toolkit.cli.options import (
    checkpoint_option,
    choose_sampler,
    device_option,
    json_option,
    sampler_options,
)
from toolkit.errors import RunError
from toolkit.runs.layout import holds_images, run_of


@click.command(short_help="Score a trained model, or images.")
@click.argument("source", metavar="RUN", shell_complete=run_folders)
@click.option(
    "--metrics", required=True, shell_complete=component_names("toolkit.evaluation.metric:Metric"),
    help="Metrics, separated by commas.",
)  # fmt: skip
@click.option(
    "--data", help="A recipe with the [data] to compare with, or a folder of images; by default the run's."
)
@click.option(
    "--split",
    type=click.Choice(["held_out", "train"]),
    help="Real examples; by default the held-out ones, or the training examples if there are none.",
)
@click.option("--num", type=click.IntRange(min=1), help="Number of generated images; 10,000 by default.")
@click.option(
    "--features",
    shell_complete=component_names("toolkit.evaluation.features:FeatureExtractor"),
    help="A feature extractor, e.g. classifier. Set its options by --set features.path=...",
)
@sampler_options
@checkpoint_option
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help="Set a value: data.path, images.seed, features.<option>, metrics.<name>.<option>.",
)
@device_option
@json_option
@click.option(
    "--out",
    help="Folder for scores and samples; by default scores/ in the run folder, with one for each checkpoint.",
)
def evaluate(
    source: str, metrics: str, data: str | None, split: Any, num: int | None, features: str | None,
    sampler: str | None, steps: int | list[int] | None, spacing: str | None, overrides: tuple[str, ...],
    checkpoint: int | Literal["best"] | None, device: str | None, as_json: bool, out: str | None,
) -> None:  # fmt: skip
    """Score RUN: a run folder, a pipeline folder, a diffusers folder, a Hub id, or a folder of images.

    Each score is written with its protocol; scores by other protocols are kept beside it. Samples are kept
    beside the scores too, so an evaluation that was stopped goes on from them. Scores of a checkpoint lie in
    a folder of its own, and are none of the run's.

    On several GPUs: accelerate launch -m toolkit evaluate RUN ... On two CPU processes: torchrun
    --nproc_per_node 2 -m -- toolkit evaluate RUN ...
    """
    names = [name for name in (part.strip() for part in metrics.split(",")) if name]
    if not names:
        raise click.BadParameter("names no metric", param_hint="--metrics")
    if holds_images(Path(source)) and (sampler or steps or spacing):
        raise RunError(
            f"{source}: is a folder of images, which --sampler, --steps and --spacing cannot change"
        )
    asked = ["--metrics", metrics, *(["--features", features] if features else [])]
    folder, recipe = places(source, data, out, asked)
    model = source
    if checkpoint is not None:
        from toolkit.runs.checkpoints import checkpoint_of

        model = str(checkpoint_of(run_of(source) or Path(source), checkpoint))
        folder = folder if out else folder / Path(model).name
    shorthands = {"images.num": num, "features.type": features}
    flags = [f"{key}={value}" for key, value in shorthands.items() if value is not None]

    from toolkit.cli.device import several_processes
    from toolkit.console import echo_json, evaluating_display, say
    from toolkit.evaluation.comparison import Share
    from toolkit.evaluation.evaluate import evaluate as score
    from toolkit.evaluation.evaluate import read_protocol
    from toolkit.pipeline.pipeline import Pipeline
    from toolkit.registry import load as plugins
    from toolkit.runs.read import ScoreFile
    from toolkit.sources.folder import ImageFolder

    protocol = read_protocol(recipe, names, [*flags, *overrides], plugins.load().registry)
    with several_processes(device) as (processes, where):
        subject: Any
        if holds_images(Path(source)):
            subject = ImageFolder(Path(source))
        else:
            subject = choose_sampler(Pipeline.from_pretrained(model), sampler, steps, spacing).to(where)
        found: list[ScoreFile] = []
        share = Share(processes.rank, processes.count, processes.together)
        with evaluating_display(visible=processes.is_main) as progress:
            for scored in score(
                subject, protocol, folder, device=where, split=split, progress=progress, share=share
            ):

                def tell(scored: ScoreFile = scored) -> None:
                    written = scored.write(folder)
                    for line in lines(scored.values):
                        say(f"{line}   protocol {scored.fingerprint}")
                    for note in scored.notes:
                        say(note, "note")
                    picture = written.with_suffix(".png")
                    say(f"written to {written}" + f", with {picture.name} beside it" * picture.exists())

                processes.on_main(tell)
                found.append(scored)
        if as_json and processes.is_main:
            echo_json([scored.model_dump(mode="json") for scored in found])
        run = run_of(source)
        if run is not None and folder == run / "scores" and (run / "pipeline").is_dir():

            def renew() -> None:
                plugins.load().tell("toolkit_pipeline_saved", folder=run / "pipeline", run=run)

            processes.on_main(renew)


def lines(values: Mapping[str, float]) -> list[str]:
    """One line per value, with its deviation if there is one."""
    first = next(iter(values), "")
    of = {name: "standard_error" if name == first else "" for name in values}
    of |= {name: f"{name}_std" for name in values if f"{name}_std" in values}
    result = []
    for name, value in values.items():
        if name not in of.values():
            error = f" \N{PLUS-MINUS SIGN} {values[of[name]]:.2g}" if of[name] in values else ""
            result.append(f"{name:<34} {value:.6g}{error}")
    return result


def places(source: str, data: str | None, out: str | None, asked: Sequence[str]) -> tuple[Path, str]:
    """The folder for scores, and the recipe with the data to compare with.

    Args:
        source: RUN.
        data: of --data.
        out: of --out.
        asked: other flags, for a command that a message shows.

    Raises:
        RunError: if RUN is not in a run folder and a flag has to name one of them.
    """
    run = run_of(source)
    if run is None and (data is None or out is None):
        what = "is not in a run folder, and" if Path(source).exists() else "is not here; a model on the Hub"
        what = "is a folder of images, and" if holds_images(Path(source)) else what
        needed = [
            *(["--data, a folder of real images or a recipe that names them"] if data is None else []),
            *(["--out, a folder for the scores"] if out is None else []),
        ]
        given = ["--data", data or "quickstart", "--out", out or "scores"]
        command = shlex.join(["toolkit", "evaluate", source, *asked, *given])
        raise RunError(f"{source}: {what} needs {', and '.join(needed)}: {command}")
    return (Path(out) if out else Path(str(run)) / "scores"), data or str(Path(str(run)) / "recipe.toml")
