"""`toolkit cost`: what a model costs."""

import click

from toolkit.cli.evaluate import run_with
from toolkit.cli.sample import choose_sampler, spacing_option, steps_option


@click.command(short_help="Measure what a trained model costs.")
@click.argument("source", metavar="RUN")
@click.option(
    "--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Images at once."
)
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0),
    help="Draw batches for so long, and at least one.",
)  # fmt: skip
@click.option("--sampler", help="Another sampler than the model's own.")
@steps_option
@spacing_option
@click.option("--device", help='By default an accelerator if there is one, else "cpu".')
def cost(
    source: str, batch_size: int, seconds: float, sampler: str | None, steps: int | list[int] | None,
    spacing: str | None, device: str | None,
) -> None:  # fmt: skip
    """Measure how fast the model of a run samples on this machine.

    It is written to cost.json in the run folder, with parameters, network calls, floating point operations,
    memory, and the time that training took. What another sampler than the model's own costs is shown only.
    Let nothing else run meanwhile.
    """
    from toolkit import plugins
    from toolkit.card import CARD, refresh_card
    from toolkit.cli.device import chosen_device
    from toolkit.console import say
    from toolkit.cost import measure_cost
    from toolkit.errors import RunError
    from toolkit.pipeline import Pipeline

    run, where = run_with(source), chosen_device(device)
    if run is None:
        raise RunError(f"{source}: is no run, which would keep what its model costs")
    pipeline = choose_sampler(Pipeline.from_pretrained(source), sampler, steps, spacing).to(where)
    found = measure_cost(pipeline, run, plugins.load().registry, batch_size=batch_size, seconds=seconds)
    for role, count in found.parameters.items():
        say(f"{'parameters':<24} {count:,} {role}")
    say(f"{'samples a second':<24} {found.samples_per_second:.4g}, {batch_size} at once")
    say(f"{'network calls':<24} {found.network_calls:,}")
    say(f"{'operations an image':<24} {found.flops_per_image / 1e9:,.4g} GFLOP")
    say(f"{'memory':<24} {found.peak_memory_bytes / 2**20:,.0f} MiB, {found.peak_memory}")
    if sampler or steps or spacing:
        return
    say(f"written to {found.write(run)}")
    if not refresh_card(run / "pipeline", run):
        say(f"{run / 'pipeline' / CARD}: was edited, and stays as it is", "note")
