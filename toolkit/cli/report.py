"""`toolkit report`: a page about runs."""

from pathlib import Path

import click

from toolkit.cli.compare import runs_argument
from toolkit.errors import RunError


@click.command(short_help="Write an HTML page about runs.")
@runs_argument
@click.option(
    "--out", default="report.html", show_default=True, type=click.Path(path_type=Path), help="The page."
)
@click.option("--png", type=click.Path(path_type=Path), help="A folder for its pictures as files.")
@click.option(
    "--samples",
    default=16,
    show_default=True,
    type=click.IntRange(0, 256),
    help="Samples of each run, from the same seeds; 0 samples nothing and is quick.",
)
@click.option("--device", help='Where to sample; by default an accelerator if there is one, else "cpu".')
def report(folders: tuple[Path, ...], out: Path, png: Path | None, samples: int, device: str | None) -> None:
    """Write one HTML file about each RUN, which needs no network: table, recipes, losses, samples, scores."""
    try:
        from toolkit.report.page import write_report
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2"):
            raise
        raise RunError(f"{error.name} is not installed: pip install 'diffusion-toolkit[report]'") from None

    from toolkit import plugins
    from toolkit.cli.device import chosen_device
    from toolkit.console import say
    from toolkit.summary import read_run

    runs = [read_run(folder) for folder in folders]
    write_report(runs, out, png, samples, chosen_device(device), plugins.load().registry, say)
    say(f"written to {out}")
