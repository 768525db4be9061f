"""`toolkit import`: weights of somebody else's code as a pipeline."""

from pathlib import Path

import click


@click.command("import", short_help="Make a pipeline of weights from another code base.")
@click.argument("importer")
@click.argument("file")
@click.argument("out")
@click.option("--preset", help="Which of the networks that the importer knows the file is of.")
@click.option("--overwrite", is_flag=True, help="Replace the pipeline at OUT.")
def import_weights(importer: str, file: str, out: str, preset: str | None, overwrite: bool) -> None:
    """Read FILE by IMPORTER, one of those that `toolkit plugins` lists, and write a pipeline folder OUT.

    Code in FILE is never executed.
    """
    from toolkit.cli.sample import refuse_to_replace

    target = Path(out)
    refuse_to_replace(target, overwrite)

    from toolkit import plugins
    from toolkit.console import say
    from toolkit.importer import Importer, import_pipeline

    registry = plugins.load().registry
    table = {"type": importer} | ({} if preset is None else {"preset": preset})
    reader = registry.create(Importer, table, supplied={}, where=lambda path: "toolkit import:")
    pipeline = import_pipeline(reader, Path(file), registry)
    pipeline.save_pretrained(target)
    say(f"{pipeline}: {target}")
    say(f"  toolkit sample {target} --num 64 --out grid.png", "try next")
