"""`toolkit compare`, `toolkit report` and `toolkit cost`; heavy imports wait until they run."""

from pathlib import Path

import click

from toolkit.commands import (
    choose_device,
    choose_sampler,
    device_option,
    json_option,
    run_folders,
    sampler_options,
)

RECIPES = ("run.out",)  # always differs, and says nothing

runs_argument = click.argument(
    "folders",
    metavar="RUN...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=run_folders,
)


@click.command(short_help="Rank runs by their scores.")
@runs_argument
@click.option("--by", metavar="SCORE", help="The score to rank by, e.g. fid_inception; the first by default.")
@click.option("--anyway", is_flag=True, help="Also show scores by different protocols, marked.")
@json_option
def compare(folders: tuple[Path, ...], by: str | None, anyway: bool, as_json: bool) -> None:
    """Show the scores of each RUN, best first, and where their recipes differ.

    How samples were made stands beside the scores; a run that was scored in several ways has a row for each.
    Held-out losses are shown where objective, path and data are the same. Scores that were measured by
    different protocols are left out; if there are no others, an error says how the protocols differ.
    """
    from rich.table import Column, Table
    from rich.text import Text

    from toolkit.commands import Terminal, echo_json, read_run
    from toolkit_report.differences import differences
    from toolkit_report.facts import sampled
    from toolkit_report.ranking import chosen, columns, footnotes, labels, notes_on, ranked
    from toolkit_report.rows import rows

    runs = [read_run(folder) for folder in folders]
    names = labels(runs)
    lines, line_names = rows(runs, names)
    listed = columns(lines)
    column = chosen(listed, by, line_names, anyway=anyway)
    mixed = [one for one in listed if not one.comparable]
    listed = listed if anyway else [one for one in listed if one.comparable]
    notes = notes_on(runs, names)
    between = list(differences([run.recipe for run in runs], RECIPES))
    if as_json:
        echo_json(
            {
                "ranked_by": column.name if column else None,
                "rows": [
                    {
                        "run": str(lines[place].path), "name": line_names[place], "step": lines[place].step,
                        "sampling": lines[place].scores[-1].sampling if lines[place].scores else None,
                        "scores": {c.key: c.value(place) for c in listed if c.value(place) is not None},
                    }
                    for place in ranked(lines, column)
                ],
                "better": {c.key: c.better for c in listed},
                "left_out": footnotes(mixed),
                "notes": notes,
                "differences": {
                    d.key: dict(zip(names, d.values, strict=True)) for d in between if not d.lacking
                },
            }
        )  # fmt: skip
        return
    several = {c.name for c in listed if sum(other.name == c.name for other in listed) > 1}
    table = Table("run", "objective", "steps", "sampled", box=None)
    for one in listed:
        way = f"\n{one.better} is better" if one.better else ""
        table.add_column(Text((one.key if one.name in several else one.name) + way), justify="right")
    for place in ranked(lines, column):
        run = lines[place]
        table.add_row(
            Text(line_names[place]),
            Text(str(run.recipe.get("objective", {}).get("type", ""))),
            f"{run.step:,}",
            Text(sampled(run.scores[-1]) if run.scores else ""),
            *(_cell(one.text(place), one.best == place) for one in listed),
        )
    console = Terminal()
    console.print(table)
    if column is not None:
        console.print(Text(f"Ranked by {column.name}; * is the best of scores that can be compared."))
    elif listed:
        console.print(Text("Not ranked: the runs stand in the order given."))
    left_out = "" if anyway else " They are left out; --anyway shows them."
    for note in (*(footnote + left_out for footnote in footnotes(mixed)), *notes):
        console.print(Text(note))
    if len(runs) > 1:
        differing = Table(
            Column("recipes differ in", overflow="fold"), *(Column(Text(name)) for name in names), box=None
        )
        for difference in (d for d in between if not d.lacking):
            differing.add_row(Text(difference.key), *map(Text, difference.texts()))
        console.print()
        console.print(differing)
        if lacking := sum(d.lacking for d in between):
            console.print(f"and {lacking} options that only some of them have, which toolkit report lists.")


def _cell(text: str, best: bool) -> str:
    return f"[bold]* {text}[/bold]" if best else text or "–"


@click.command(short_help="Write an HTML page about runs.")
@runs_argument
@click.option(
    "--out",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The file of the page.",
)
@click.option("--png", type=click.Path(path_type=Path), help="A folder to write its pictures into as well.")
@click.option(
    "--samples",
    default=16,
    show_default=True,
    type=click.IntRange(0, 256),
    help="Samples of each run, from the same seeds; 0 samples nothing, which is quick.",
)
@device_option
def report(folders: tuple[Path, ...], out: Path, png: Path | None, samples: int, device: str | None) -> None:
    """Write one HTML page about all RUNs that works offline: table, recipes, losses, samples, scores."""
    from toolkit.commands import RunError, read_run, say

    try:
        from toolkit_report.page import write_report
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2"):
            raise
        raise RunError(f"{error.name} is not installed: pip install 'diffusion-toolkit[report]'") from None

    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except RunError as error:
            if not (folder / "run.json").is_file():  # not a run: a typo
                raise
            left_out.append(f"{folder.name} is left out: {error}")
            say(left_out[-1])
    if not runs:
        raise RunError("none of these runs can be read")
    write_report(runs, out, png, samples, choose_device(device), say, left_out)
    say(f"written to {out}")


@click.command(short_help="Measure what a trained model costs.")
@click.argument("source", metavar="RUN", shell_complete=run_folders)
@click.option(
    "--batch-size", default=16, show_default=True, type=click.IntRange(1, 2**16), help="Images drawn at once."
)
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0),
    help="How long to draw batches; at least one is drawn.",
)  # fmt: skip
@sampler_options
@device_option
def cost(
    source: str, batch_size: int, seconds: float, sampler: str | None, steps: int | list[int] | None,
    spacing: str | None, device: str | None,
) -> None:  # fmt: skip
    """Measure how fast the model of a run samples on this machine.

    The result is written to cost.json in the run folder, with parameters, network calls, floating-point
    operations, memory, and the time that training took; for a sampler other than the model's own it is only
    printed. Let nothing else run meanwhile.
    """
    from toolkit import Pipeline, load_plugins
    from toolkit.commands import RunError, run_of, say
    from toolkit_report.cost import measure_cost

    run, where = run_of(source), choose_device(device)
    if run is None:
        raise RunError(f"{source}: is not a run, in whose folder the cost would be kept")
    pipeline = choose_sampler(Pipeline.from_pretrained(source), sampler, steps, spacing).to(where)
    plugins = load_plugins()
    measured = measure_cost(pipeline, run, batch_size=batch_size, seconds=seconds)
    for role, count in measured.parameters.items():
        say(f"{'parameters':<24} {count:,} {role}")
    say(f"{'samples a second':<24} {measured.samples_per_second:.4g}, {batch_size} at once")
    say(f"{'network calls':<24} {measured.network_calls:,}")
    say(f"{'operations an image':<24} {measured.flops_per_image / 1e9:,.4g} GFLOP")
    say(f"{'memory':<24} {measured.peak_memory_bytes / 2**20:,.0f} MiB, {measured.peak_memory}")
    if sampler or steps or spacing:
        return
    say(f"written to {measured.write(run)}")
    plugins.tell("toolkit_pipeline_saved", folder=run / "pipeline", run=run)
